"""The training loop, the only one: step, rates, measure, keep the best, log, go on.

What is trained, on what and by which losses is the learner's; DeepSpeed takes the steps, at every
number of processes.
"""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch

from core import distributed
from core.console import progress, say
from core.errors import InputError
from core.settings import Training
from training import engine as deep
from training import log
from training.average import WeightAverage
from training.checkpoints import Checkpoints, check_progress
from training.guards import not_finite_weight, out_of_memory
from training.learner import Learner
from training.optimiser import learning_rate, set_rates
from training.order import Ahead


class Loop:
    """One training in one folder: ``run`` goes on where the folder's last state is.

    ``number_format``: what ``precision`` comes to. ``other_world``: what to do with a state of
    another number of processes, ``refuse`` it or go on from its ``weights``;
    ``other_world_setting`` is the caller's name for that choice, for messages.
    """

    def __init__(
        self,
        learner: Learner,
        settings: Training,
        folder: Path,
        number_format: str = "fp32",
        other_world: str = "refuse",
        other_world_setting: str = "other_world",
    ):
        self.learner = learner
        self.settings = settings
        self.folder = folder
        self.number_format = number_format
        self.checkpoints = Checkpoints(folder)
        self.state: dict[str, Any] = {
            "step": 0,
            "best": -1.0,  # the metric at best_step; -1: it was not measured
            "best_step": 0,
            "world": distributed.world_size(),
            "per_step": learner.per_step,
            "history": [],  # (step, metric)
        }
        stopped = self.checkpoints.stopped(learner.per_step, other_world, other_world_setting)
        if stopped:
            check_progress(stopped, folder)
        # Before the engine is made, which lays the weights out for itself
        if stopped and stopped["world"] != distributed.world_size():
            self.take_weights(stopped)
        self.engine = self.made_engine()
        self.average = None
        if settings.average:
            self.average = WeightAverage(self.engine.module, settings.average, settings.steps)
        if stopped:
            self.go_on(stopped)
        if not self.checkpoints.ended():
            log.trim(folder, self.state["step"])

    def take_weights(self, stopped: dict) -> None:
        """Those of a training by another number of processes, whose optimizer can't be had."""
        self.learner.model.load_state_dict(self.checkpoints.weights(stopped["step"]))
        say(
            f"  {self.learner.name}: the weights of step {stopped['step']}, "
            f"trained by {stopped['world']} processes; "
            f"the optimizer begins anew with {distributed.world_size()}"
        )

    def made_engine(self) -> Any:
        """DeepSpeed around the learner's model and torch's AdamW."""
        settings = self.settings
        config = deep.settings(
            settings.deepspeed,
            batch_size=settings.batch_size // distributed.world_size(),
            accumulation=settings.accumulation,
            clip=settings.clip,
            number_format=self.number_format,
        )
        optimizer = torch.optim.AdamW(self.learner.parameter_groups())
        return deep.make(self.learner.model, optimizer, config)

    def go_on(self, stopped: dict) -> None:
        """Takes up a training where its progress note says that it was."""
        step = stopped["step"]
        world = distributed.world_size()
        if stopped["world"] == world:
            self.checkpoints.load_state(self.engine, step)
        self.learner.restore(self.checkpoints.tensors(step, "learner"))
        if self.average:
            self.average.restore(self.checkpoints.tensors(step, "average"))
        self.state = {**stopped, "world": world, "per_step": self.learner.per_step}
        say(f"  {self.learner.name}: going on at step {step} of {self.settings.steps}")

    def run(self) -> dict:
        """Takes the steps that are left, and returns what the training came to."""
        if self.checkpoints.ended():
            self.checkpoints.tidy()
            self.engine.destroy()
            return self.checkpoints.outcome()
        if "base" not in self.state:
            self.measure_base()
        begun = self.state["step"]
        start = time.monotonic()
        self.take_steps(begun)
        self.say_speed(self.settings.steps - begun, time.monotonic() - start)
        outcome = {
            **self.state,
            "settings": self.settings.model_dump(),
            "precision": self.number_format,
        }
        self.checkpoints.finish(outcome)
        self.engine.destroy()
        self.learner.report(self.state)
        return self.state

    def measure_base(self) -> None:
        """The metric before any training, where there is something to measure by."""
        self.engine.eval()
        measured = self.learner.measure(self.engine, 0)
        if measured:
            self.state |= {**self.learner.baselines(), "base": measured.value}

    def take_steps(self, begun: int) -> None:
        """All steps from ``begun`` on; the batches of the next are made meanwhile."""
        learner = self.learner
        steps = self.settings.steps
        bar = progress(None, steps * learner.per_step, f"train {learner.name}", learner.unit)
        writer = log.log(self.folder, begun, self.settings.tensorboard)
        with bar, writer as note, contextlib.closing(Ahead(learner.batches)) as ahead:
            bar.update(begun * learner.per_step)
            for step in range(begun, steps):
                taken = step + 1
                entry: dict[str, Any] = {"step": taken, **self.step(step, ahead)}
                if taken % self.settings.evaluate_every == 0 or taken == steps:
                    entry[learner.metric] = self.evaluate(taken)
                note(entry)
                bar.set_postfix(shown(entry))
                bar.update(learner.per_step)

    def step(self, step: int, ahead: Ahead | None = None) -> dict[str, float]:
        """One optimizer step; the losses are means over its micro-batches on all processes."""
        learner = self.learner
        # Dropout is a function of step and process, so a training that goes on draws the same
        torch.manual_seed(distributed.seed_of(self.settings.seed, step, distributed.rank()))
        self.engine.train()
        factor = learning_rate(step, self.settings.steps, self.settings.warmup)
        set_rates(self.engine.optimizer.param_groups, factor)
        learner.begin(step)
        batches = ahead.take(step) if ahead else learner.batches(step)
        following = step + 1
        if ahead and following < self.settings.steps and not learner.waits(following):
            ahead.start(following)
        try:
            losses = [learner.learn(self.engine, batch, step) for batch in batches]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise InputError(
                f"{learner.name}: memory ran out at step {step + 1}, {learner.too_large(batches)}"
            ) from None
        self.engine.step()
        if self.average:
            self.average.take(step + 1)
        entry = mean_losses(losses)
        entry["lr"] = factor * self.settings.learning_rate
        return entry

    def evaluate(self, step: int) -> float | None:
        """The metric; the best weights so far are kept, and a state to go on from is written.

        Where weights are averaged, the average is what is measured and kept. Raises InputError
        where a weight or the metric is no number: neither is worth keeping.
        """
        self.refuse_not_finite(step)
        self.engine.eval()
        with self.average.in_place() if self.average else contextlib.nullcontext():
            measured = self.learner.measure(self.engine, step)
            value = measured.value if measured else None
            if value is not None and not math.isfinite(value):
                raise InputError(
                    f"{self.learner.name}: dev {self.learner.metric} is {value} at step {step}; "
                    "lower learning_rate, or set precision=fp32"
                )
            self.keep_if_best(step, value)
        self.state["history"].append([step, value])
        self.state["step"] = step
        more = {"learner": self.learner.state()}
        if self.average:
            more["average"] = self.average.state()
        self.checkpoints.save_state(self.engine, more, self.state)
        if measured:
            where = f"step {step} of {self.settings.steps}"
            say(f"  {self.learner.name}: {where}, dev {self.learner.metric} {value:.4f}")
            if measured.warning:
                say(f"  note: {measured.warning}")
        return value

    def refuse_not_finite(self, step: int) -> None:
        """Raises InputError, in all processes, if a weight of any of them is no number."""
        found = not_finite_weight(self.engine.module)
        if distributed.average([float(found is not None)])[0] > 0:
            raise InputError(
                f"{self.learner.name}: the weights are not finite at step {step} "
                f"(first {found or 'in another process'}): training has diverged; "
                "lower learning_rate, lengthen warmup, or set precision=fp32"
            )

    def keep_if_best(self, step: int, value: float | None) -> None:
        """Saves the weights that a value was measured of, if it is the best; None: the last are."""
        first = self.state["best_step"] == 0  # the metric may be of any size
        if value is None or first or value > self.state["best"]:
            self.state["best"] = -1.0 if value is None else value
            self.state["best_step"] = step
            self.checkpoints.save_best(step, self.engine.module, self.learner.save)

    def say_speed(self, steps: int, seconds: float) -> None:
        """How long the steps took, with the measuring between them."""
        learner = self.learner
        rate = steps * learner.per_step / max(seconds, 1e-9)
        say(
            f"  {learner.name}: {steps} steps in {seconds:.0f} s, "
            f"{rate:.1f} {learner.unit}s/s with its dev scores"
        )


def mean_losses(losses: list[dict[str, float]]) -> dict[str, float]:
    """Each loss, a mean over this process's micro-batches and then over processes."""
    names = list(losses[0])
    own = []
    for name in names:
        total = sum(of_batch[name] for of_batch in losses)
        own.append(total / len(losses))
    return dict(zip(names, distributed.average(own), strict=True))


def shown(entry: dict[str, Any]) -> dict[str, str]:
    """What of a step's entry in the log stands beside the bar."""
    texts = {}
    for name, value in entry.items():
        if name not in ("step", "lr") and value is not None:
            texts[name] = f"{value:.3f}"
    return texts
