"""MoCo through DeepSpeed against plain torch: moco.py STAGE …, of ZeRO.

Torchrun runs it for several processes. Prints, a line a case, the largest difference of any weight
of the encoder in training and of the momentum encoder after three steps of two batches, and how
far the first one moved.
"""

import copy
import sys
import tempfile
from pathlib import Path

import alike
import little
import torch
from torch.nn.functional import cross_entropy

from core import distributed
from training import engine as deep

STEPS, SIZE, DECAY = 3, 10, 0.75


def vector(model, row):
    ids = torch.tensor([row])
    return model("shared", input_ids=ids, attention_mask=torch.ones_like(ids))[0]


def oracle(learner, start):
    """Texts one by one, a list for the queue, and the momentum encoder's weights by equation 2."""
    model, keys = copy.deepcopy(start), copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), alike.RATE)
    corpus, tokens = learner.material.corpus, learner.tokens
    queue = []  # (passage, vector), the oldest first
    for step in range(STEPS):
        if step:
            with torch.no_grad():
                for followed, key in zip(model.parameters(), keys.parameters(), strict=True):
                    key.copy_(DECAY * key + (1 - DECAY) * followed)
        optimizer.zero_grad()
        for part, numbers in enumerate(learner.order.of_step(step)):
            batch = step * learner.settings.accumulation + part
            positives = learner.pairs.positives(numbers, batch)
            queries, _ = learner.pairs.views(numbers, positives, batch)
            with torch.no_grad():
                rows = tokens.rows(corpus.texts(positives), "passage")
                passages = [vector(keys, row) for row in rows]
            total = 0.0
            for place, number in enumerate(numbers.tolist()):
                query = vector(model, queries[place])
                relevant = {3 * number} | ({3 * number + 1} if number % 4 == 0 else set())
                scores = [query @ passages[place]]
                scores += [query @ old for passage, old in queue if passage not in relevant]
                scores = torch.stack(scores) / learner.temperature
                total = total + cross_entropy(scores[None], torch.tensor([0]))
            (total / len(numbers) / learner.settings.accumulation).backward()
            queue += zip(positives.tolist(), passages, strict=True)
            queue = queue[-SIZE:]
        optimizer.step()
    return model, keys


def difference(folder, stage, cached):
    """(of the model, of the momentum encoder, how far the model moved)."""
    settings = little.settings(
        folder,
        stage,
        gradient_caching=cached,
        in_batch=["momentum", "queue"],
        momentum={"decay": DECAY},
        queue={"size": SIZE, "alone": True},
    )
    learner = little.learner(settings, folder, negatives=False)
    start = copy.deepcopy(learner.model)
    expected, keys = oracle(learner, start)
    found = alike.trained(learner)

    def largest(one, other):
        return max(float((one[name] - other[name]).abs().max()) for name in one)

    expected, keys = dict(expected.named_parameters()), dict(keys.named_parameters())
    moved = largest(expected, dict(start.named_parameters()))
    return largest(expected, found), largest(keys, learner.links[0].weights), moved


if __name__ == "__main__":
    deep.start()
    torch.set_num_threads(1)
    alike.STEPS = STEPS
    shared = [tempfile.mkdtemp() if distributed.rank() == 0 else None]
    torch.distributed.broadcast_object_list(shared)  # one folder for all
    base = Path(shared[0])
    if distributed.rank() == 0:
        little.corpus(base / "texts")
    distributed.barrier()
    for stage in map(int, sys.argv[1:]):
        for cached in (False, True):
            model, keys, moved = difference(base, stage, cached)
            if distributed.rank() == 0:
                print(f"moco {stage} {cached} {model:.2e} {keys:.2e} {moved:.2e}", flush=True)
    sys.exit(0)
