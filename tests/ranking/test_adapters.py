"""Frozen layers and adapters: against peft itself, in every stage of ZeRO, and what is refused."""

import copy
import json

import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from small import write
from tiny import Letters, body, learner, loop, settings, step_of, texts
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
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
