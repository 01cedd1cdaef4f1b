"""Clean and adversarial backward through DeepSpeed at ZeRO 0 to 3 against plain torch.

Torchrun runs it for several processes.
Prints, a line a stage, the largest difference of any weight after two steps of two micro-batches.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from ranking.adversary import FGM
from ranking.losses import Groups, binary_cross_entropy
from ranking.model import CrossEncoder
from training import engine as deep

STEPS, ACCUMULATION, SIZE, EPSILON, RATE = 2, 2, 3, 0.5, 0.1


def body():
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,
        )
    )


def batches(world):
    random = torch.Generator().manual_seed(1)
    count = STEPS * ACCUMULATION * world  # no piece 0: the embedding gives padding no gradient
    return [
        (torch.randint(1, 50, (SIZE, 7), generator=random), torch.rand(SIZE, generator=random))
        for _ in range(count)
    ]


def plain_torch(model, data, norm, per_step):
    """The oracle: no hooks.

    The word embeddings are computed by hand, so that their gradient is an ordinary autograd.grad.
    """
    embedding = model.get_input_embeddings().weight
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    for start in range(0, len(data), per_step):
        total = 0.0
        for ids, labels in data[start : start + per_step]:
            words = embedding[ids]
            if not words.requires_grad:
                words.requires_grad_()
            clean = torch.nn.functional.binary_cross_entropy_with_logits(
                model(inputs_embeds=words).logits[:, 0], labels
            )
            (g,) = torch.autograd.grad(clean, words, retain_graph=True)
            size = g.flatten(1).norm(dim=1).view(-1, 1, 1) if norm == "example" else g.norm()
            adversarial = torch.nn.functional.binary_cross_entropy_with_logits(
                model(inputs_embeds=embedding[ids] + EPSILON * g / size).logits[:, 0], labels
            )
            total = total + (clean + adversarial) / per_step
        optimizer.zero_grad()
        total.backward()
        optimizer.step()


def loss(logits, labels):
    return binary_cross_entropy(
        logits.unsqueeze(-1), Groups(labels.unsqueeze(-1), torch.ones_like(labels).unsqueeze(-1))
    )


def with_deepspeed(model, data, stage, norm, folder):
    wrapped = CrossEncoder(model, [0.0])
    (folder / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE)
    engine = deep.make(
        wrapped, optimizer, deep.settings(folder / "ds.json", SIZE, ACCUMULATION, 0.0, "fp32")
    )
    fgm = FGM(model.get_input_embeddings(), EPSILON, norm)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    engine.train()
    for group in engine.optimizer.param_groups:
        group["lr"] = RATE
    for step in range(STEPS):
        for i in range(ACCUMULATION):
            ids, labels = data[(step * ACCUMULATION + i) * world + rank]
            with fgm.watch():
                engine.backward(loss(engine(input_ids=ids), labels))
            with fgm.perturb():
                engine.backward(loss(engine(input_ids=ids), labels))
        engine.step()
    with deep.gathered(wrapped):
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
    engine.destroy()
    return state


def difference(stage, norm, frozen, folder):
    ours, oracle = body(), body()
    for model in (ours, oracle):
        model.get_input_embeddings().requires_grad_(not frozen)
    world = int(os.environ["WORLD_SIZE"])
    data = batches(world)
    start = copy.deepcopy(oracle.state_dict())
    plain_torch(oracle, data, norm, ACCUMULATION * world)
    found = with_deepspeed(ours, data, stage, norm, folder)
    expected = dict(oracle.named_parameters())
    assert max(float((expected[n].detach() - start[n]).abs().max()) for n in found) > 1e-3, (
        "the oracle did not move"
    )
    return max(float((found[n] - expected[n].detach()).abs().max()) for n in found)


if __name__ == "__main__":
    deep.start()
    torch.set_num_threads(1)
    for stage in (0, 1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            found = difference(stage, "example", stage % 2 == 1, Path(folder))
        if os.environ["RANK"] == "0":
            print(f"stage {stage} difference {found:.2e}", flush=True)
    sys.exit(0)
