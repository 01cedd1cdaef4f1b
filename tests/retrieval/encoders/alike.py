"""The contrastive loss through DeepSpeed at ZeRO 0 to 3, plain and cached, against plain torch.

Torchrun runs it for several processes. Prints, a line a case, the largest difference of any weight
after two steps of two batches, two negatives a query, and how far the weights moved.
"""

import copy
import os
import sys
import tempfile
from pathlib import Path

import little
import torch
from torch.nn.functional import cross_entropy

from core import distributed
from training import engine as deep

STEPS, RATE = 2, 0.5


def oracle(learner, start):
    """No DeepSpeed, no chunks, no masks: each text alone, and a list of scores a query."""
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    corpus, tokens = learner.material.corpus, learner.tokens

    def vector(row, side):
        ids = torch.tensor([row])
        return model(model.tower(side), input_ids=ids, attention_mask=torch.ones_like(ids))[0]

    for step in range(STEPS):
        optimizer.zero_grad()
        for part, numbers in enumerate(learner.order.of_step(step)):
            batch = step * learner.settings.accumulation + part
            positives = learner.pairs.positives(numbers, batch).tolist()
            drawn = learner.negatives.draw(numbers, batch).ravel().tolist()
            everything = positives + [passage for passage in drawn if passage >= 0]
            rows = tokens.rows(corpus.texts(torch.tensor(everything).numpy()), "passage")
            passages = [vector(row, "passage") for row in rows]
            query_rows, _ = learner.pairs.views(numbers, learner.pairs.positives(numbers, 0), batch)
            total = 0.0
            for place, number in enumerate(numbers.tolist()):
                query = vector(query_rows[place], "query")
                relevant = {3 * number} | ({3 * number + 1} if number % 4 == 0 else set())
                scores = [query @ passages[place]]
                for other, passage in zip(everything, passages, strict=True):
                    if other not in relevant:
                        scores.append(query @ passage)
                scores = torch.stack(scores) / learner.temperature
                total = total + cross_entropy(scores[None], torch.tensor([0]))
            loss = total / len(numbers) / learner.settings.accumulation
            loss.backward()
        optimizer.step()
    return dict(model.named_parameters())


def trained(learner):
    settings = learner.settings
    optimizer = torch.optim.SGD(learner.model.parameters(), RATE)
    config = deep.settings(
        settings.deepspeed,
        settings.batch_size // distributed.world_size(),
        settings.accumulation,
        0.0,
        settings.precision,
    )
    engine = deep.make(learner.model, optimizer, config)
    engine.train()
    for group in engine.optimizer.param_groups:
        group["lr"] = RATE
    for step in range(STEPS):
        learner.begin(step)
        for batch in learner.batches(step):
            learner.learn(engine, batch, step)
        engine.step()
    with deep.gathered(learner.model):
        weights = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    engine.destroy()
    return weights


def difference(folder, stage, **more):
    """(largest difference from the oracle, how far the oracle moved)."""
    towers = more.pop("towers", "shared")
    settings = little.settings(folder, stage, **more)
    learner = little.learner(settings, folder, towers=towers)
    start = copy.deepcopy(learner.model)
    expected = oracle(learner, start)
    found = trained(learner)
    before = dict(start.named_parameters())
    moved = max(float((expected[n] - before[n]).abs().max()) for n in expected)
    return max(float((found[n] - expected[n]).abs().max()) for n in expected), moved


if __name__ == "__main__":
    deep.start()
    torch.set_num_threads(1)
    shared = [tempfile.mkdtemp() if distributed.rank() == 0 else None]
    torch.distributed.broadcast_object_list(shared)  # one folder for all
    base = Path(shared[0])
    if distributed.rank() == 0:
        little.corpus(base / "texts")
    distributed.barrier()
    for stage in (0, 1, 2, 3):
        for cached in (False, True):
            # Batches by language are short for some places; at 1 and 2 half of the cases will do
            for batches, towers in (("shuffled", "shared"), ("by_language", "separate")):
                if stage in (1, 2) and cached != (towers == "separate"):
                    continue
                found, moved = difference(
                    base, stage, gradient_caching=cached, batches=batches, towers=towers
                )
                if os.environ["RANK"] == "0":
                    print(f"{stage} {cached} {batches} {found:.2e} {moved:.2e}", flush=True)
    sys.exit(0)
