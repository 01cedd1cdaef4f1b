"""A learner of a few numbers: what it sees of a step is the step's number; it keeps a queue.

toy.py FOLDER    what two processes do to gather with gradient; prints a line of JSON, from rank 0
"""

import json
import sys
from pathlib import Path

import torch

from core import distributed
from core.settings import Training
from training import engine
from training.gather import gather
from training.learner import Measured
from training.loop import Loop
from training.optimiser import parameter_groups


class Toy:
    """Learns y = 2x; ``queue`` holds the last three inputs and is part of the loss."""

    name, unit, per_step, metric = "toy", "number", 4, "closeness"

    def __init__(self, settings, waiting=(), fail_at=None):
        torch.manual_seed(0)
        self.settings, self.waiting, self.fail_at = settings, waiting, fail_at
        self.model = torch.nn.Linear(1, 1)
        self.queue = torch.zeros(3)
        self.calls = []

    def parameter_groups(self):
        rates = {"all": self.settings.learning_rate}
        return parameter_groups(self.model.named_parameters(), lambda _: "all", rates, 0.0)

    def begin(self, step):
        self.calls.append(("begin", step))

    def waits(self, step):
        return step in self.waiting

    def batches(self, step):
        self.calls.append(("batches", step))
        if step == self.fail_at:
            raise ValueError(f"no batches of step {step}")
        random = torch.Generator().manual_seed(step)
        return [torch.rand(2, 1, generator=random) for _ in range(self.settings.accumulation)]

    def learn(self, engine, batch, step):
        self.calls.append(("learn", step))
        noise = torch.rand(1)  # of the step's seed
        output = engine(batch.to(self.model.weight.dtype))[:, 0].float()
        error = output - 2 * batch[:, 0] + 0.1 * self.queue.mean() + 0.01 * noise
        loss = error.square().mean()
        engine.backward(loss)
        self.queue = torch.cat([self.queue, batch[:, 0]])[-3:]
        return {"error": float(loss.detach())}

    def too_large(self, batches):
        return f"with {len(batches)} batches"

    def measure(self, engine, step):
        value = -abs(float(self.model.weight.detach()) - 2)
        return Measured(value, "far away" if value < -1 else None)

    def baselines(self):
        return {"zero": -2.0}

    def save(self, folder):
        folder.mkdir()
        torch.save(self.model.state_dict(), folder / "weights.pt")

    def state(self):
        return {"queue": self.queue}

    def restore(self, state):
        self.queue = state["queue"]

    def report(self, state):
        self.calls.append(("report", state["best_step"]))


def settings(folder, **more):
    (folder / "ds.json").write_text('{"zero_optimization": {"stage": 0}}')
    values = {
        "steps": 6,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 0.1,
        "evaluate_every": 2,
        "deepspeed": str(folder / "ds.json"),
    }
    return Training(**{**values, **more})


def loop(folder, toy):
    engine.start()
    (folder / "t").mkdir(exist_ok=True)
    return Loop(toy, toy.settings, folder / "t")


def gathered_gradients():
    """Each process's loss is its own rows against all: sum over i, j of weight_i (x_i · x_j)²."""
    rank, world = distributed.rank(), distributed.world_size()
    rows = torch.arange(12.0).reshape(4, 3) / 10
    own = rows[rank * 4 // world : (rank + 1) * 4 // world].clone().requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])[rank * 4 // world : (rank + 1) * 4 // world]
    every = gather(own)
    (weights[:, None] * (own @ every.T).square()).sum().backward()
    parts = [torch.empty_like(own) for _ in range(world)]
    torch.distributed.all_gather(parts, own.grad)
    return every.detach().tolist(), torch.cat(parts).tolist()


if __name__ == "__main__":
    engine.start()
    every, gradients = gathered_gradients()
    if distributed.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps([distributed.world_size(), every, gradients]))
    engine.stop()
