import copy
import json
import shutil

import pytest
import torch
from tiny import Letters, body

from core.errors import InputError
from core.records import TrainingPair
from core.settings import Fgm, Ranker
from ranking import engine
from ranking.data import TrainingData, micro_batches
from ranking.model import CrossEncoder
from ranking.train import Loop, Training, learning_rate, parameter_groups


def pairs(count=24):
    return [TrainingPair("en", f"q{i}", f"d{i}", float(i % 3 == 0), "judged", 0, "", "") for i in range(count)]


def training(settings, dev=None):
    data = TrainingData([pairs()], lambda p: (p.qid, "yes" if p.label else "no"), settings.seed, settings.batch_size * settings.accumulation)
    return Training("tiny", settings, CrossEncoder(body(), settings.dropouts), Letters(), data, dev)


def settings(tmp_path, **more):
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 0}}')
    return Ranker(**{"steps": 6, "batch_size": 4, "accumulation": 2, "learning_rate": 1e-2, "evaluate_every": 2, "precision": "fp32",
                     "deepspeed": str(tmp_path / "ds.json"), "dropouts": [0.1, 0.3], **more})


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def train(folder, s, dev=None):
    engine.start()
    folder.mkdir(exist_ok=True)
    return Loop(training(s, dev), folder).run()


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, monkeypatch):
    s = settings(tmp_path)
    train(tmp_path / "whole", s)
    step = Loop.step

    def stopped(self, n):
        if n == 5:
            raise KeyboardInterrupt
        return step(self, n)

    monkeypatch.setattr(Loop, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", s)
    monkeypatch.setattr(Loop, "step", step)
    assert json.loads((tmp_path / "stopped" / "progress.json").read_text())["step"] == 4
    train(tmp_path / "stopped", s)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    logs = [[json.loads(x) for x in (tmp_path / n / "training.jsonl").read_text().splitlines()] for n in ("whole", "stopped")]
    assert logs[0] == logs[1] and len(logs[0]) == 6 and {"clean", "adversarial"} <= set(logs[0][0])
    assert not (tmp_path / "stopped" / "state").exists()


def test_the_best_checkpoint_is_kept(tmp_path):
    found = iter([0.2, 0.9, 0.5])
    kept = {}

    def dev(forward):
        value = next(found)
        kept[value] = forward(Letters().pad(Letters()(["q1"], ["d1"]), "cpu"))
        return value

    state = train(tmp_path / "t", settings(tmp_path), dev)
    assert (state["best"], state["best_step"]) == (0.9, 4)
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t" / "model").eval()
    with torch.inference_mode():
        assert torch.allclose(model(**Letters().pad(Letters()(["q1"], ["d1"]), "cpu")).logits[:, 0], kept[0.9], atol=1e-6)


def test_it_learns(tmp_path):
    log = tmp_path / "t" / "training.jsonl"
    train(tmp_path / "t", settings(tmp_path, steps=60, evaluate_every=60, dropouts=[0.1]))
    losses = [json.loads(line)["clean"] for line in log.read_text().splitlines()]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_equals_a_loop_in_plain_torch(tmp_path):
    s = settings(tmp_path, dropouts=[0.0], fgm=Fgm(epsilon=0.0), clip=0.5)
    t = training(s)
    for module in t.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = copy.deepcopy(t.model)
    engine.start()
    (tmp_path / "t").mkdir()
    Loop(t, tmp_path / "t").run()
    optimizer = torch.optim.AdamW(parameter_groups(plain, s))
    for step in range(s.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, s.steps, s.warmup)
        found = t.data.step(step)
        texts = [t.data.texts(p) for p in found]
        logits = plain.train()(**Letters().pad(Letters()(*zip(*texts)), "cpu"))[0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([p.label for p in found]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), s.clip)
        optimizer.step()
    ours = weights(tmp_path / "t")
    differences = {n: float((ours[n] - v).abs().max()) for n, v in plain.body.state_dict().items() if not n.endswith("key.bias")}
    assert max(differences.values()) < 1e-4, "(a key's bias has no gradient but rounding, which AdamW blows up)"


def test_bf16_on_a_cpu(tmp_path):
    train(tmp_path / "t", settings(tmp_path, precision="bf16", steps=2))
    assert {v.dtype for v in weights(tmp_path / "t").values()} == {torch.bfloat16}


def test_frozen_embeddings_stay(tmp_path):
    train(tmp_path / "t", settings(tmp_path, freeze_embeddings=True))
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(weights(tmp_path / "t")[name], body().state_dict()[name])


def test_without_fgm_there_is_no_adversarial_loss(tmp_path):
    train(tmp_path / "t", settings(tmp_path, fgm=Fgm(epsilon=0.0), steps=2))
    assert set(json.loads((tmp_path / "t" / "training.jsonl").read_text().splitlines()[0])) == {"step", "clean", "lr"}


def test_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(InputError, match=r"tiny: the loss is .*nan.* at step \d .pairs en/q"):
        train(tmp_path / "t", settings(tmp_path, learning_rate=1e30, clip=1e30, steps=6, fgm=Fgm(epsilon=0.0)))


def test_another_number_of_processes(tmp_path):
    s = settings(tmp_path)
    train(tmp_path / "t", s)
    shutil.rmtree(tmp_path / "t")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "progress.json").write_text('{"step": 2, "world": 4}')
    with pytest.raises(InputError, match="was begun with 4 processes, this run has 1"):
        train(tmp_path / "t", s)


def test_rates():
    assert [round(learning_rate(s, 10, 0.2), 3) for s in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert learning_rate(0, 10, 0.0) == 1.0
    groups = parameter_groups(CrossEncoder(body(), [0.1]), Ranker(learning_rate=1e-4, head_learning_rate=1e-3))
    assert sorted((g["peak"], g["weight_decay"]) for g in groups) == [(1e-4, 0.0), (1e-4, 0.01), (1e-3, 0.0), (1e-3, 0.01)]


def test_order_is_a_function_of_seed_and_epoch():
    def texts(p):
        return p.qid, p.docid
    data = TrainingData([pairs(10)], texts, 0, 4)
    epoch = [p.qid for step in (0, 1) for p in data.step(step)]
    assert len(set(epoch)) == 8, "no pair twice in an epoch; the two that do not fill a step wait for the next"
    assert data.step(3) != data.step(1) and TrainingData([pairs(10)], texts, 0, 4).step(3) == data.step(3)
    assert TrainingData([pairs(10)], texts, 1, 4).step(0) != data.step(0)
    two = TrainingData([pairs(8), [p._replace(origin="second") for p in pairs(8)]], texts, 0, 8)
    assert [two.step(e)[0].origin for e in range(3)] == ["judged", "second", "judged"]


def test_micro_batches_cover_the_step():
    rows = [({"input_ids": [0] * n}, n) for n in (5, 1, 4, 2, 8, 3, 7, 6)]
    shares = [micro_batches(rows, 2, rank, 2) for rank in (0, 1)]
    assert sorted(n for share in shares for batch in share for _, n in batch) == list(range(1, 9))
    assert [[n for _, n in batch] for batch in shares[0]] == [[1, 2], [5, 6]]


def test_data_that_cannot_train():
    with pytest.raises(InputError, match="3 training pairs do not fill one step of 4; lower batch_size or accumulation"):
        TrainingData([pairs(3)], None, 0, 4)
    with pytest.raises(InputError, match="all 8 training pairs have the label 0.0"):
        TrainingData([[p._replace(label=0.0) for p in pairs(8)]], None, 0, 4)
