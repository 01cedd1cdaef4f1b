"""Frozen layers and adapters: against peft itself, in every stage of ZeRO, and what is refused."""

import copy
import json

import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from small import write
from tiny import Letters, body, learner, loop, settings
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    RemBertConfig,
    XLMRobertaConfig,
)

from core.config import from_layers
from core.distributed import seed_of
from core.errors import InputError
from core.settings import Fgm, Lora, Ranker
from core.task import Task
from ranking import adapters, rank, trainings
from ranking.adversary import FGM
from ranking.model import CrossEncoder
from training import engine
from training.loop import Loop
from training.optimiser import learning_rate

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 1,
    "initializer_range": 0.2,
}
ARCHITECTURES = {
    "bert": BertConfig(**SIZES),
    "xlm-roberta": XLMRobertaConfig(**SIZES, pad_token_id=1),
    "deberta-v2": DebertaV2Config(
        **SIZES,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        pooler_hidden_size=16,
    ),
    "rembert": RemBertConfig(**SIZES, input_embedding_size=8),
}
PAIRS = Letters().pad(Letters()(["q1", "q2"], ["yes", "no"]), "cpu")
IDS = torch.tensor([[0, 5, 6, 2], [0, 7, 8, 2]])


def drawn(architecture):
    torch.manual_seed(0)
    config = copy.deepcopy(ARCHITECTURES[architecture])
    return AutoModelForSequenceClassification.from_config(config)


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def head_names(model):
    return {name for name, _ in model.named_parameters() if adapters.in_head(model, name)}


# ---- The last layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_last_layers_are(architecture):
    model = drawn(architecture)
    adapters.choose_trained(model, Ranker(train_layers=1), "a")
    last = [name for name, _ in model.named_parameters() if ".layer.2." in name]
    assert len(last) == 16
    assert trained_names(model) == {*last, *head_names(model)}
    assert len(head_names(model)) == 4, "the last linear layer, and a pooler or dense layer"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_backward_pass_goes_below_them(architecture, checkpointing):
    model = drawn(architecture)
    if checkpointing:
        trainings.checkpoint_activations(model)
    adapters.choose_trained(model, Ranker(train_layers=1), "a")
    below, last = [model.base_model.encoder.layer[number] for number in (1, 2)]
    graph = {}

    def note(module, _inputs, output):
        graph[module] = (output[0] if isinstance(output, tuple) else output).requires_grad

    for layer in (below, last):
        layer.register_forward_hook(note)
    encoder = CrossEncoder(model, [0.1]).train()
    encoder(input_ids=IDS).sum().backward()
    assert graph == {below: False, last: True}
    fgm = FGM(model.get_input_embeddings(), 1.0, "example")
    with fgm.watch():
        encoder(input_ids=IDS).sum().backward()
    assert graph[below], "FGM needs the gradient down to the embeddings"
    assert fgm.delta().flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert all(parameter.grad is None for parameter in below.parameters())


@pytest.mark.parametrize("stage, epsilon", [(0, 0.0), (0, 0.5), (3, 0.5)])
def test_frozen_layers_stay_as_they_are(tmp_path, stage, epsilon):
    """Also with FGM and weight decay."""
    engine.start()
    s = settings(tmp_path, stage, train_layers=1, fgm=Fgm(epsilon=epsilon))
    loop(s, tmp_path).run()
    before = body().state_dict()
    found = load_file(tmp_path / "model" / "model.safetensors")
    changed = {name for name, value in found.items() if not torch.equal(value, before[name])}
    assert changed == {
        name for name in before if adapters.in_head(body(), name) or ".layer.1." in name
    }


# ---- Adapters


def plain_peft(model, lora):
    """The same by peft's own way, its adapters drawn by the same seed."""
    linear = r".*\.encoder\.layer\..*\.(query|key|value|dense)"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=linear,
        modules_to_save=["pooler", "classifier"],
    )
    return get_peft_model(model, config)


def take_adapters(target, source):
    """Gives peft's model the adapters of ours."""
    values = {}
    for name, value in source.state_dict().items():
        if ".lora_" in name:
            values[f"base_model.model.{name}"] = value
    assert len(values) == 2 * 2 * 6
    _, unexpected = target.load_state_dict(values, strict=False)
    assert not unexpected


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_training_is_that_of_peft_itself(tmp_path, rate):
    """Six steps of AdamW with weight decay, clipping, warmup and a rate of the head's own."""
    engine.start()
    s = settings(
        tmp_path,
        lora=Lora(rank=3, alpha=6, dropout=rate),
        fgm=Fgm(epsilon=0.0),
        dropouts=[0.0],
        clip=0.5,
        head_learning_rate=3e-3,
    )
    t = learner(s, dropout=0.0)
    plain = plain_peft(body(dropout=0.0), s.lora)
    take_adapters(plain, t.model.body)
    Loop(t, s, tmp_path).run()
    head = [p for n, p in plain.named_parameters() if p.requires_grad and "lora_" not in n]
    assert len(head) == 4
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in plain.named_parameters() if "lora_" in n], "peak": 1e-2},
            {"params": [p for p in head if p.ndim > 1], "peak": 3e-3},
            {"params": [p for p in head if p.ndim == 1], "peak": 3e-3, "weight_decay": 0.0},
        ],
        weight_decay=0.01,
    )
    for step in range(s.steps):
        torch.manual_seed(seed_of(s.seed, step, 0))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, s.steps, s.warmup)
        optimizer.zero_grad()
        for batch in t.batches(step):
            inputs = t.tokenize.pad(batch.inputs, "cpu")
            logits = plain.train()(**inputs).logits[:, 0]
            labels = torch.tensor([pair.label for pair in batch.pairs])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), s.clip)
        optimizer.step()
    ours = load_file(tmp_path / "model" / "model.safetensors")
    expected = plain.merge_and_unload().state_dict()
    assert ours.keys() == expected.keys() == body().state_dict().keys()
    for name, value in expected.items():
        assert torch.allclose(ours[name], value, rtol=0, atol=1e-6), name
    before = body().state_dict()
    moved = {name for name, value in before.items() if not torch.allclose(ours[name], value)}
    assert len(moved) == 2 * 6 + 4, "the linear layers' weights and the head"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_adversarial_steps_are_those_of_plain_torch(tmp_path, stage):
    """Clean and adversarial passes of both micro-batches: the oracle of test_adversary."""
    engine.start()
    ours, plain = oracle.body(), oracle.body()
    for model in (ours, plain):
        adapters.choose_trained(model, Ranker(lora=Lora(rank=2, alpha=8)), "a")
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:  # at first they are zero, and their sisters have no gradient
                torch.nn.init.normal_(parameter, std=0.1)
    start = adapters.merged(plain)
    data = oracle.batches(1)
    oracle.plain_torch(plain, data, "example", oracle.ACCUMULATION)
    found = oracle.with_deepspeed(ours, data, stage, "example", tmp_path)
    moved = 0.0
    for name, parameter in plain.named_parameters():
        assert torch.allclose(found[name], parameter, rtol=0, atol=1e-6), name
    for name, value in adapters.merged(plain).items():
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_is_saved_is_a_plain_model_that_scores_the_same(tmp_path, stage, precision):
    """As dev queries are scored in the loop, with the adapters beside the body."""
    engine.start()
    kept = {}

    class Dev:
        first_stage = 0.5

        def __call__(self, forward):
            with torch.inference_mode():
                kept[len(kept)] = forward(PAIRS)
            return float(len(kept) == 3), 1.0  # the best is the second of three after the base

    s = settings(tmp_path, stage, precision=precision, lora=Lora(rank=2), dropouts=[0.1, 0.3])
    state = loop(s, tmp_path, Dev()).run()
    assert state["best_step"] == 4
    folder = tmp_path / "model"
    assert not list(folder.glob("adapter*"))
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert type(model) is type(body())
    with torch.inference_mode():
        found = CrossEncoder(model, [0.1]).eval()(**PAIRS)[0]
    tolerance = {"fp32": 1e-6, "bf16": 0.05}[precision]
    assert torch.allclose(found, kept[2], rtol=0, atol=tolerance)
    assert float((kept[2] - kept[0]).abs().max()) > 0.1, "it has learned"


def test_a_stopped_training_ends_with_the_same_bytes(tmp_path):
    """At ZeRO 0; test_processes kills one at ZeRO 3."""
    engine.start()
    s = settings(tmp_path, lora=Lora(rank=2, dropout=0.1))
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    loop(s, tmp_path / "whole").run()
    first = loop(s, tmp_path / "stopped")
    for step in (0, 1):
        first.step(step)
    first.evaluate(2)
    first.step(2)  # lost, as no state was written behind it
    first.engine.destroy()
    again = loop(s, tmp_path / "stopped")
    assert again.state["step"] == 2
    again.run()
    whole, stopped = (tmp_path / n / "model" / "model.safetensors" for n in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_other_processes_go_on_from_the_adapters(tmp_path, stage):
    """Their weights are taken out of DeepSpeed's files; see test_train's test of whole bodies."""
    engine.start()
    s = settings(tmp_path, stage, lora=Lora(rank=2))
    first = loop(s, tmp_path)
    first.step(0)
    first.evaluate(1)
    with engine.gathered(first.engine.module):
        expected = adapters.merged(first.engine.module.body)
    note = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(note | {"world": 4}))
    again = loop(s, tmp_path, other_world="weights")
    with engine.gathered(again.engine.module):
        found = adapters.merged(again.engine.module.body)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6), name
    for made in (first, again):
        made.engine.destroy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_linear_layers_of_the_body_are_adapted(architecture):
    """The head and the embeddings are not; the model is the one without adapters at first."""
    model = drawn(architecture).eval()
    plain = model(input_ids=IDS).logits
    head = head_names(model)
    before = copy.deepcopy(model.state_dict())
    adapters.choose_trained(model, Ranker(lora=Lora(rank=2)), "a")
    assert torch.equal(model(input_ids=IDS).logits, plain)
    trained = trained_names(model)
    added = trained - head
    assert head < trained and all(".lora_" in name for name in added)
    projection = architecture == "rembert"  # from the embeddings' width to the body's
    assert len(added) == 2 * (3 * 6 + projection)
    merged = adapters.merged(model)
    assert merged.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in merged.items())


def adapted_layers(model):
    names = {name.split(".lora_")[0] for name in trained_names(model) if ".lora_" in name}
    return sorted(name.removeprefix("bert.encoder.layer.") for name in names)


@pytest.mark.parametrize(
    "targets, train_layers, expected",
    [
        (["query"], None, [f"{n}.attention.self.query" for n in (0, 1, 2)]),
        (["query", "value"], 1, ["2.attention.self.query", "2.attention.self.value"]),
        (["attention.output.dense"], 1, ["2.attention.output.dense"]),
        (["0.output.dense"], None, ["0.output.dense"]),
        (
            [],
            1,
            [
                "2.attention.output.dense",
                "2.attention.self.key",
                "2.attention.self.query",
                "2.attention.self.value",
                "2.intermediate.dense",
                "2.output.dense",
            ],
        ),
    ],
)
def test_targets(targets, train_layers, expected):
    model = drawn("bert")
    ranker = Ranker(train_layers=train_layers, lora=Lora(rank=2, targets=targets))
    adapters.choose_trained(model, ranker, "a")
    assert adapted_layers(model) == expected


def test_what_is_added_by_hand():
    """scale * B A with alpha 6, rank 2: three times the product."""
    model = drawn("bert")
    lora = Lora(rank=2, alpha=6, targets=["0.attention.self.query"])
    before = model.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
    adapters.choose_trained(model, Ranker(lora=lora), "a")
    layer = model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        layer.lora_A["default"].weight.zero_()[:, 5] = torch.tensor([1.0, 10.0])
        layer.lora_B["default"].weight[7] = torch.tensor([2.0, 0.5])
    found = adapters.merged(model)["bert.encoder.layer.0.attention.self.query.weight"]
    before[7, 5] += 3 * (2.0 * 1.0 + 0.5 * 10.0)
    assert torch.equal(found, before)


def test_adapters_are_drawn_by_the_rankers_seed():
    drawings = []
    for seed in (0, 0, 1):
        model = drawn("bert")
        torch.manual_seed(len(drawings))
        adapters.choose_trained(model, Ranker(seed=seed, lora=Lora(rank=2)), "a")
        drawings.append(model.bert.encoder.layer[0].output.dense.lora_A["default"].weight)
    assert torch.equal(drawings[0], drawings[1]) and not torch.equal(drawings[0], drawings[2])


# ---- The stage


def test_a_chain_and_a_teacher_of_adapted_rankers(trained):
    """They start from merged weights, and the scores are those of the merged model."""
    task, _ = trained
    ranking = task.config.ranking
    small = ranking.rankers["small"].model_copy(update={"lora": Lora(rank=2)})
    named = {
        "adapted": small,
        "further": small.model_copy(update={"start": "adapted", "train_layers": 1}),
        "taught": small.model_copy(update={"loss": "margin_mse", "teacher": "adapted"}),
    }
    changed = ranking.model_copy(update={"chain": {}, "rankers": named})
    found = Task(task.config.model_copy(update={"name": "adapted", "ranking": changed}))
    rank.run(found.config)
    steps = rank.plan(found)
    weights = load_file(steps["ranker/adapted"].path / "model" / "model.safetensors")
    start, _ = trainings.body_of(found, "further", steps)
    for name, value in start.state_dict().items():
        assert torch.equal(weights[name], value), name
    assert not any("lora" in name for name in weights)
    later = load_file(steps["ranker/further"].path / "model" / "model.safetensors")
    moved = {name for name, value in later.items() if not torch.equal(value, weights[name])}
    of_body = {name for name in moved if not adapters.in_head(start, name)}
    assert len(of_body) == 6, "the weights of the linear layers of its one layer"


# ---- Settings that make no sense


@pytest.mark.parametrize(
    "ranker, message",
    [
        (
            Ranker(lora=Lora(targets=["qury"])),
            "ranking: a: lora.targets: no linear layer of the body has the name qury; did you mean "
            "query? Known here: query, key, value, dense",
        ),
        (
            Ranker(lora=Lora(targets=["query", "self.qury"])),
            "has the name self.qury; did you mean self.query? Known here: query, key, value, dense",
        ),
        (
            Ranker(lora=Lora(targets=["classifier"])),  # of the head, which is trained whole
            "no linear layer of the body has the name classifier. Known here: query, key",
        ),
        (
            Ranker(lora=Lora(targets=["uery"])),
            "no linear layer of the body has the name uery; did you mean query?",
        ),
        (
            Ranker(lora=Lora(targets=["query", "layer.0.output.dense"]), train_layers=1),
            "ranking: a: lora.targets: layer.0.output.dense is in layers that train_layers freezes "
            "alone, so that its adapters would not be trained; raise train_layers, or take one "
            "away",
        ),
        (
            Ranker(train_layers=4),
            "ranking: a: train_layers: found 4, expected at most 3, the layers of its body",
        ),
    ],
)
def test_what_is_refused(ranker, message):
    with pytest.raises(InputError) as error:
        adapters.choose_trained(drawn("bert"), ranker, "a")
    assert message in str(error.value)


def test_a_body_without_linear_layers_and_one_that_shares_its_layers():
    sizes = {"vocab_size": 50, "num_labels": 1, "pad_token_id": 0}
    convolutions = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, **sizes)
    model = AutoModelForSequenceClassification.from_config(convolutions)
    with pytest.raises(InputError, match="a: lora: nothing to train, the architecture 'gpt2' has"):
        adapters.choose_trained(model, Ranker(lora=Lora()), "a")
    shared = AlbertConfig(
        embedding_size=8,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=2,
        **sizes,
    )
    model = AutoModelForSequenceClassification.from_config(shared)
    with pytest.raises(InputError, match="the architecture 'albert' has no list of its 2 layers"):
        adapters.choose_trained(model, Ranker(train_layers=1), "a")


@pytest.mark.parametrize(
    "training, message",
    [
        (
            {"lora": {"rank": 0}},
            "ranking.rankers.a.lora.rank: found 0, expected greater than or equal to 1",
        ),
        (
            {"lora": {"rank": -4}},
            "ranking.rankers.a.lora.rank: found -4, expected greater than or equal to 1",
        ),
        (
            {"lora": {"alpha": 0}},
            "ranking.rankers.a.lora.alpha: found 0, expected greater than or equal to 1",
        ),
        (
            {"lora": {"dropout": 1}},
            "ranking.rankers.a.lora.dropout: found 1, expected less than 1",
        ),
        (
            {"lora": {"target": ["query"]}},
            "unknown key ranking.rankers.a.lora.target; "
            "did you mean ranking.rankers.a.lora.targets?",
        ),
        (
            {"lora": {"targets": ["query", "query"]}},
            "each name once; more than once: query",
        ),
        (
            {"train_layers": 0},
            "ranking.rankers.a.train_layers: found 0, expected greater than or equal to 1",
        ),
    ],
)
def test_values_that_a_configuration_cannot_have(training, message):
    layer = {
        "collection": {"source": "atlas"},
        "ranking": {"rankers": {"a": training}},
    }
    with pytest.raises(InputError) as error:
        from_layers([("own.yaml", layer)], "own.yaml", "own")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "named, message",
    [
        ({"a": {"train_layers": 13}}, "a: train_layers: found 13, expected at most 12, the layers"),
        ({"a": {"layers": 4, "train_layers": 5}}, "a: train_layers: found 5, expected at most 4"),
        (
            {"a": {"backbone": "xlm-r-large", "train_layers": 25}},
            "a: train_layers: found 25, expected at most 24",
        ),
        (
            {"b": {"layers": 4}, "a": {"start": "b", "train_layers": 5}},
            "a: train_layers: found 5, expected at most 4",
        ),
        ({"a": {"start": "FOLDER", "train_layers": 3}}, "a: train_layers: found 3, expected at mo"),
        (
            {"a": {"model": "FOLDER", "lora": {}, "train_layers": 1}},
            "and lora, train_layers; a given model is not trained, take the setting away",
        ),
    ],
)
def test_the_plan_refuses_what_it_can_know(config, tmp_path, named, message):
    write(tmp_path / "given")  # of two layers
    rankers = {}
    for name, settings_ in named.items():
        for key in ("start", "model"):
            if settings_.get(key) == "FOLDER":
                settings_ = {**settings_, key: str(tmp_path / "given")}
        rankers[name] = settings_
    with pytest.raises(InputError) as error:
        rank.plan(Task(config(ranking={"rankers": rankers})))
    assert message in str(error.value)


def test_a_ranker_without_them_is_known_as_before():
    """Also one that names them as they are by default; the adapters' own defaults count once."""
    assert Ranker(lora=None, train_layers=None).recipe_settings == Ranker().recipe_settings
    settings_ = Ranker(lora=Lora(rank=16), train_layers=2).recipe_settings
    assert (settings_["lora"], settings_["train_layers"]) == ({}, 2)
    assert Ranker(lora=Lora(rank=4)).recipe_settings["lora"] == {"rank": 4}
