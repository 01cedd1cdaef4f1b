import copy
import json
from pathlib import Path

import pytest
import torch
from tiny import Letters, body, data_of, learner, loop, settings, step_of, texts

from core.errors import InputError
from core.records import TrainingPair
from core.settings import Fgm, Ranker
from ranking.learner import RankerLearner, adversarial, cross_encoder_groups
from ranking.model import CrossEncoder
from training import engine
from training.loop import Loop
from training.optimiser import learning_rate


class Dev:
    """Dev scores that a test sets, one a call; the first is that of the base model."""

    def __init__(self, *values, spread=1.0, then=lambda value, forward: None):
        self.values, self.spread, self.then, self.first_stage = iter(values), spread, then, 0.6

    def __call__(self, forward):
        value = next(self.values)
        self.then(value, forward)
        return value, self.spread


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def train(folder, s, dev=None):
    engine.start()
    folder.mkdir(exist_ok=True)
    return loop(s, folder, dev).run()


def test_the_best_checkpoint_is_kept(tmp_path):
    kept = {}

    def keep(value, forward):
        kept[value] = forward(Letters().pad(Letters()(["q1"], ["d1"]), "cpu"))

    state = train(tmp_path / "t", settings(tmp_path), Dev(0.1, 0.2, 0.9, 0.5, then=keep))
    assert (state["best"], state["best_step"], state["base"], state["first_stage"]) == (
        0.9,
        4,
        0.1,
        0.6,
    )
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "model",
        "training.json",
        "training.jsonl",
    ]
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t" / "model").eval()
    with torch.inference_mode():
        assert torch.allclose(
            model(**Letters().pad(Letters()(["q1"], ["d1"]), "cpu")).logits[:, 0],
            kept[0.9],
            atol=1e-6,
        )


def test_it_learns(tmp_path):
    log = tmp_path / "t" / "training.jsonl"
    train(tmp_path / "t", settings(tmp_path, steps=60, evaluate_every=60, dropouts=[0.1]))
    losses = [json.loads(line)["clean"] for line in log.read_text().splitlines()]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_equals_a_loop_in_plain_torch(tmp_path):
    s = settings(tmp_path, dropouts=[0.0], fgm=Fgm(epsilon=0.0), clip=0.5)
    t = learner(s)
    for module in t.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = copy.deepcopy(t.model)
    engine.start()
    (tmp_path / "t").mkdir()
    Loop(t, s, tmp_path / "t").run()
    optimizer = torch.optim.AdamW(cross_encoder_groups(plain, s))
    for step in range(s.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, s.steps, s.warmup)
        found = [pair for (pair,) in step_of(t.data, step)]
        queries, passages = zip(*map(texts, found), strict=True)
        logits = plain.train()(**Letters().pad(Letters()(queries, passages), "cpu"))[0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.tensor([p.label for p in found])
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), s.clip)
        optimizer.step()
    ours = weights(tmp_path / "t")
    differences = {
        n: float((ours[n] - v).abs().max())
        for n, v in plain.body.state_dict().items()
        if not n.endswith("key.bias")
    }
    assert max(differences.values()) < 1e-4, (
        "(a key's bias has no gradient but rounding, which AdamW blows up)"
    )


def test_bf16_on_a_cpu(tmp_path):
    train(tmp_path / "t", settings(tmp_path, precision="bf16", steps=2))
    assert {v.dtype for v in weights(tmp_path / "t").values()} == {torch.bfloat16}


def test_offloading_and_checkpointing_change_no_loss(tmp_path):
    """Every DeepSpeed file of configs/, with and without gradient checkpointing.

    That recomputes what FGM's hooks look at.
    """
    engine.start()
    found = {}
    for path in sorted((Path(__file__).parents[2] / "configs" / "deepspeed").glob("*.json")):
        for checkpointing in (False, True):
            s = settings(tmp_path, dropouts=[0.0], learning_rate=1e-3).model_copy(
                update={"deepspeed": str(path)}
            )
            t = learner(s, dropout=0.0)
            if checkpointing:
                t.model.body.activation_checkpointing_enable(
                    activation_checkpointing_kwargs={"use_reentrant": False}
                )
            made = Loop(t, s, tmp_path)
            found[path.stem, checkpointing] = [
                loss for step in range(3) for loss in made.step(step).values()
            ]
            made.engine.destroy()
    assert len(found) == 12
    for which, losses in found.items():
        assert losses == pytest.approx(found["zero0", False], rel=1e-5), which


def test_a_group_is_seen_whole(tmp_path):
    """A listwise loss of one step is that of plain torch on the groups that the data gives."""
    engine.start()
    s = settings(
        tmp_path,
        dropouts=[0.0],
        fgm=Fgm(epsilon=0.0),
        loss="listwise_softmax",
        group_size=2,
        batch_size=4,
        accumulation=2,
    )
    rows = [
        TrainingPair("en", f"q{i}", docid, label, "judged", 0, "", "")
        for i in range(4)
        for docid, label in (("good", 1.0), ("bad", 0.0))
    ]
    t = learner(s, dropout=0.0, rows=rows)
    t.texts = lambda p: (p.qid, p.docid)
    model = copy.deepcopy(t.model)
    found = Loop(t, s, tmp_path).step(0)["clean"]
    losses = []
    for group in step_of(data_of([rows], 0, 4, 2), 0):
        logits = model.eval()(
            **Letters().pad(Letters()([p.qid for p in group], [p.docid for p in group]), "cpu")
        )[0]
        losses.append(torch.nn.functional.cross_entropy(logits[None], torch.tensor([0])))
    assert found == pytest.approx(sum(losses).item() / 4, rel=1e-5)


def test_frozen_embeddings_stay(tmp_path):
    train(tmp_path / "t", settings(tmp_path, freeze_embeddings=True))
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(weights(tmp_path / "t")[name], body().state_dict()[name])


def test_without_fgm_there_is_no_adversarial_loss(tmp_path):
    train(tmp_path / "t", settings(tmp_path, fgm=Fgm(epsilon=0.0), steps=2))
    assert set(json.loads((tmp_path / "t" / "training.jsonl").read_text().splitlines()[0])) == {
        "step",
        "clean",
        "lr",
    }


def test_a_loss_that_is_not_finite_names_step_pairs_and_layer(tmp_path):
    s = settings(tmp_path, fgm=Fgm(epsilon=0.0))
    t = learner(s)
    engine.start()
    (tmp_path / "t").mkdir()
    made = Loop(t, s, tmp_path / "t")
    made.step(0)
    with torch.no_grad():
        t.model.body.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(
        InputError,
        match=r"tiny: the loss is {'clean': nan} at step 2 .pairs en/q\d+/d\d+, .*; "
        "first not finite in the layer body.bert.encoder.layer.1.output.dense.; lower",
    ):
        made.step(1)


def test_memory_that_runs_out(tmp_path, monkeypatch):
    engine.start()
    made = loop(settings(tmp_path), tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RankerLearner, "learn", full)
    with pytest.raises(
        InputError,
        match="tiny: memory ran out at step 3, with 4 pairs of up to 8 tokens at once; "
        "halve batch_size and double accumulation",
    ):
        made.step(2)


def test_another_number_of_processes(tmp_path):
    s, folder = settings(tmp_path), tmp_path / "t"
    folder.mkdir()
    (folder / "progress.json").write_text('{"step": 2, "world": 4, "per_step": 8}')
    with pytest.raises(
        InputError,
        match="was begun with 4 processes, this run has 1; go on with as many, "
        "set other_world=weights",
    ):
        train(folder, s)


@pytest.mark.parametrize("stage, precision", [(0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_its_weights_alone(tmp_path, monkeypatch, stage, precision, capsys):
    """A state of other processes gives its weights, out of DeepSpeed's files of every stage."""
    s, folder = settings(tmp_path, precision=precision), tmp_path / "t"
    (tmp_path / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    engine.start()
    folder.mkdir()
    first = loop(s, folder)
    for step in (0, 1):
        first.step(step)
    first.evaluate(2)
    with engine.gathered(first.engine.module):
        trained = {
            n: p.detach().clone().float() for n, p in first.engine.module.body.named_parameters()
        }
    note = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps(note | {"world": 4}))
    again = learner(s)
    started = Loop(again, s, folder, precision, other_world="weights")
    assert started.state["step"] == 2 and started.state["world"] == 1
    with engine.gathered(started.engine.module):
        assert all(
            torch.allclose(p.float(), trained[n], atol=1e-2 if precision == "bf16" else 1e-6)
            for n, p in again.model.body.named_parameters()
        )
    started.run()
    assert (
        "the weights of step 2, trained by 4 processes; the optimizer begins anew with 1"
        in capsys.readouterr().out
    )


def test_fgm_from_a_step_on_and_in_a_share_of_them(tmp_path):
    train(
        tmp_path / "t", settings(tmp_path, steps=12, evaluate_every=12, fgm=Fgm(start=4, share=0.5))
    )
    taken = [
        "adversarial" in json.loads(line)
        for line in (tmp_path / "t" / "training.jsonl").read_text().splitlines()
    ]
    assert not any(taken[:4]) and 1 <= sum(taken[4:]) <= 7
    assert taken == [adversarial(Fgm(start=4, share=0.5), 0, step) for step in range(12)]


def test_what_its_user_is_told(tmp_path, capsys):
    train(tmp_path / "worse", settings(tmp_path), Dev(0.3, 0.4, 0.5, 0.45, spread=1e-6))
    out = capsys.readouterr().out
    assert (
        "tiny, dev nDCG@10:  first stage 0.6000   base 0.3000   tuned 0.5000 (step 4)" in out
        and "6 steps in" in out
    )
    assert (
        "tiny gives all passages of a query one score at step 2" in out
        and "tiny ranks worse than the first stage: more steps" in out
    )
    train(tmp_path / "none", settings(tmp_path), Dev(0.7, 0.4, 0.5, 0.45))
    assert "tiny is no better than before its training: raise steps" in capsys.readouterr().out
    train(tmp_path / "good", settings(tmp_path), Dev(0.3, 0.4, 0.5, 0.7))
    assert "note:" not in capsys.readouterr().out


def test_tensorboard_files_if_asked(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(
        tmp_path / "t",
        settings(tmp_path, tensorboard=True, fgm=Fgm(epsilon=0.0)),
        Dev(0.1, 0.2, 0.9, 0.5),
    )
    events = EventAccumulator(str(tmp_path / "t" / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("nDCG@10")] == [
        (2, 0.2),
        (4, 0.9),
        (6, 0.5),
    ]
    assert len(events.Scalars("clean")) == 6


def test_rates():
    assert [round(learning_rate(s, 10, 0.2), 3) for s in (0, 1, 2, 6, 9)] == [
        0.5,
        1.0,
        1.0,
        0.5,
        0.125,
    ]
    assert learning_rate(0, 10, 0.0) == 1.0
    groups = cross_encoder_groups(
        CrossEncoder(body(), [0.1]), Ranker(learning_rate=1e-4, head_learning_rate=1e-3)
    )
    assert sorted((g["peak"], g["weight_decay"]) for g in groups) == [
        (1e-4, 0.0),
        (1e-4, 0.01),
        (1e-3, 0.0),
        (1e-3, 0.01),
    ]
