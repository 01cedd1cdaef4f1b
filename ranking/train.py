"""The training loop of a cross-encoder, on DeepSpeed at every number of processes."""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from core import distributed
from core.console import progress, say
from core.errors import InputError
from core.files import write_json
from core.records import TrainingPair
from core.settings import Ranker
from ranking import engine as deep
from ranking import guards
from ranking.adversary import FGM
from ranking.data import TrainingData, micro_batches
from ranking.guards import Dev
from ranking.losses import LOSSES, Groups
from ranking.model import CrossEncoder
from ranking.pairs import PairTokenizer
from ranking.rerank import out_of_memory


@dataclass
class Training:
    """What a training needs: data, a tokenizer, a model, dev queries to choose by (None: the last weights are kept), and with a loss
    that has a teacher its scores. ``other_world``: what to do with a state of another number of processes (``ranking.other_world``)."""

    name: str
    settings: Ranker
    model: CrossEncoder
    tokenize: PairTokenizer
    data: TrainingData
    dev: Dev | None
    teacher: Callable[[TrainingPair], float] | None = None
    half: bool = True  # whether the backbone bears fp16
    other_world: str = "refuse"


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate: up linearly over the share ``warmup`` of the steps, then down linearly to 0 at the end."""
    rising = warmup * steps
    return (
        (step + 1) / rising
        if step + 1 <= rising
        else max(0.0, (steps - step) / max(1.0, steps - rising))
    )


def parameter_groups(model: CrossEncoder, s: Ranker) -> list[dict]:
    """Body and head, with and without weight decay (biases and norms have none); ``peak`` is the group's rate at full height."""
    groups: dict[tuple[bool, bool], list] = {}
    base = model.body.base_model_prefix
    for name, parameter in model.body.named_parameters():
        if parameter.requires_grad:
            head = not name.startswith(base + ".") or ".pooler." in name
            groups.setdefault((head, parameter.ndim > 1), []).append(parameter)
    rates = {False: s.learning_rate, True: s.head_learning_rate or s.learning_rate}
    return [
        {
            "params": p,
            "lr": rates[head],
            "peak": rates[head],
            "weight_decay": s.weight_decay if decayed else 0.0,
        }
        for (head, decayed), p in groups.items()
    ]


class Loop:
    """One training in one folder: ``run`` goes on where the folder's last state is."""

    def __init__(self, training: Training, folder: Path):
        t, s = training, training.settings
        self.t, self.s, self.folder = t, s, folder
        self.state = {
            "step": 0,
            "best": -1.0,
            "best_step": 0,
            "world": distributed.world_size(),
            "history": [],
        }
        if s.freeze_embeddings:
            t.model.body.get_input_embeddings().requires_grad_(False)
        found = self.stopped()
        config = deep.settings(
            s.deepspeed, s.batch_size, s.accumulation, s.clip, deep.precision(s.precision, t.half)
        )
        self.engine = deep.make(t.model, torch.optim.AdamW(parameter_groups(t.model, s)), config)
        self.device = self.engine.device
        self.fgm = (
            FGM(t.model.body.get_input_embeddings(), s.fgm.epsilon, s.fgm.norm)
            if s.fgm.epsilon > 0
            else None
        )
        if found and found["world"] == distributed.world_size():
            deep.load_state(self.engine, self.folder / "state", f"step-{found['step']}")
        if found:
            self.state = {**found, "world": distributed.world_size()}
            say(f"  {t.name}: going on at step {found['step']} of {s.steps}")
        if not self.ended():
            trim_log(self.folder / "training.jsonl", self.state["step"])

    def run(self) -> dict:
        if self.ended():
            self.tidy()
            return json.loads((self.folder / "training.json").read_text("utf-8"))
        if self.t.dev and "base" not in self.state:
            self.engine.eval()
            self.state |= {
                "first_stage": self.t.dev.first_stage,
                "base": self.t.dev(self.scores)[0],
            }
        unit, start, begun = (
            "pair" if self.t.data.size == 1 else "group",
            time.monotonic(),
            self.state["step"],
        )
        with (
            progress(
                None, self.s.steps * self.t.data.per_step, f"train {self.t.name}", unit
            ) as bar,
            guards.log(self.folder, begun, self.s.tensorboard) as log,
        ):
            bar.update(begun * self.t.data.per_step)
            for step in range(begun, self.s.steps):
                entry = {"step": step + 1, **self.step(step)}
                if (step + 1) % self.s.evaluate_every == 0 or step + 1 == self.s.steps:
                    entry["nDCG@10"] = self.evaluate(step + 1)
                log(entry)
                bar.set_postfix(
                    {
                        k: f"{v:.3f}"
                        for k, v in entry.items()
                        if k in ("clean", "adversarial", "nDCG@10") and v is not None
                    }
                )
                bar.update(self.t.data.per_step)
        seconds = time.monotonic() - start
        say(
            f"  {self.t.name}: {self.s.steps - begun} steps in {seconds:.0f} s, {(self.s.steps - begun) * self.t.data.per_step / max(seconds, 1e-9):.1f} {unit}s/s with its dev scores"
        )
        self.finish()
        return self.state

    def step(self, step: int) -> dict:
        """One optimizer step; the losses are means over all its micro-batches."""
        torch.manual_seed(distributed.seed_of(self.s.seed, step, distributed.rank()))
        self.engine.train()
        factor = learning_rate(step, self.s.steps, self.s.warmup)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        groups = self.t.data.step(step)
        pairs = [pair for group in groups for pair in group]
        inputs = iter(self.t.tokenize(*zip(*map(self.t.data.texts, pairs))))
        rows = [[(next(inputs), pair) for pair in group] for group in groups]
        adversary = self.fgm if self.fgm and adversarial(self.s, step) else None
        size = max(1, self.s.batch_size // self.t.data.size)
        try:
            losses = [
                self.micro_step(batch, adversary, step)
                for batch in micro_batches(rows, size, distributed.rank(), distributed.world_size())
            ]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            longest = max(len(row["input_ids"]) for group in rows for row, _ in group)
            raise InputError(
                f"{self.t.name}: memory ran out at step {step + 1}, with {self.s.batch_size} pairs of up to {longest} tokens at once; halve batch_size and double accumulation "
                "(the same steps), or set gradient_checkpointing=true, fgm.epsilon=0 or a DeepSpeed file with offloading"
            ) from None
        self.engine.step()
        means = distributed.average(
            [sum(loss[name] for loss in losses) / len(losses) for name in losses[0]]
        )
        return {**dict(zip(losses[0], means)), "lr": factor * self.s.learning_rate}

    def micro_step(self, batch: list, adversary: FGM | None, step: int) -> dict[str, float]:
        """Clean loss, and with FGM the adversarial one, each backward through the engine."""
        rows = [row for group in batch for row in group]
        inputs, spread = (
            self.t.tokenize.pad([row for row, _ in rows], self.device),
            Spread(batch, self.t.data.size, self.device),
        )
        labels, teacher = (
            [f(pair) for _, pair in rows]
            for f in (lambda pair: pair.label, self.t.teacher or (lambda pair: 0.0))
        )
        groups = Groups(
            spread(labels),
            spread([1.0] * len(rows)),
            spread(teacher) if self.t.teacher else None,
            self.s.temperature,
            self.s.positive_weight,
        )

        def backward() -> float:
            loss = LOSSES[self.s.loss](spread(self.engine(**inputs).float()), groups)
            self.engine.backward(loss)
            return float(loss.detach())

        if adversary is None:
            found = {"clean": backward()}
        else:
            with adversary.watch():
                found = {"clean": backward()}
            if math.isfinite(found["clean"]):
                with adversary.perturb():
                    found["adversarial"] = backward()
        if not all(map(math.isfinite, found.values())):
            raise InputError(
                guards.not_finite(
                    self.t.name, step + 1, found, [pair for _, pair in rows], self.engine, inputs
                )
            )
        return found

    def scores(self, inputs: dict) -> torch.Tensor:
        return self.engine(**inputs)[0]

    def evaluate(self, step: int) -> float | None:
        """Dev nDCG@10; the best weights so far are kept, and a state to go on from is written."""
        self.engine.eval()
        found, spread = self.t.dev(self.scores) if self.t.dev else (None, None)
        if found is None or found > self.state["best"]:
            self.state |= {"best": found if found is not None else -1.0, "best_step": step}
            self.save_best()
        self.state["history"].append([step, found])
        self.state["step"] = step
        self.save_state()
        if found is not None:
            say(f"  {self.t.name}: step {step} of {self.s.steps}, dev nDCG@10 {found:.4f}")
            guards.collapsed(self.t.name, step, spread)
        return found

    def save_best(self) -> None:
        """model-STEP, which the next state names; older ones go once it is written."""
        with deep.gathered(self.engine.module):
            if distributed.rank() == 0:
                part = self.folder / "best.part"
                shutil.rmtree(part, ignore_errors=True)
                self.t.model.body.save_pretrained(part)
                self.t.tokenize.tokenizer.save_pretrained(part)
                target = self.folder / f"model-{self.state['best_step']}"
                shutil.rmtree(target, ignore_errors=True)
                part.rename(target)
        distributed.barrier()

    def save_state(self) -> None:
        """DeepSpeed's own files under state/step-N; progress.json, written last, names the one to go on from."""
        tag = f"step-{self.state['step']}"
        self.engine.save_checkpoint(str(self.folder / "state"), tag=tag, save_latest=False)
        distributed.barrier()
        if distributed.rank() == 0:
            write_json(self.folder / "progress.json", self.state)
            kept = (tag, f"model-{self.state['best_step']}")
            for old in [*(self.folder / "state").glob("step-*"), *self.folder.glob("model-*")]:
                if old.name not in kept:
                    shutil.rmtree(old)
        distributed.barrier()

    def stopped(self) -> dict | None:
        """Where a training stopped. Of another number of processes: an InputError, or its weights alone, put into the model."""
        note, world = self.folder / "progress.json", distributed.world_size()
        if self.ended() or not note.exists():
            return None
        state = json.loads(note.read_text("utf-8"))
        if state["world"] != world:
            if self.t.other_world == "refuse":
                raise InputError(
                    f"{self.folder}: was begun with {state['world']} processes, this run has {world}; go on with as many, set "
                    "ranking.other_world=weights to go on from its weights (the optimizer and the order of data begin anew), or remove the folder"
                )
            self.t.model.load_state_dict(
                deep.saved_weights(self.folder / "state", f"step-{state['step']}")
            )
            say(
                f"  {self.t.name}: the weights of step {state['step']}, trained by {state['world']} processes; the optimizer begins anew with {world}"
            )
        return state

    def ended(self) -> bool:
        """Also true of a training that was stopped after its last step, while it put its files in order."""
        return (self.folder / "training.json").exists()

    def finish(self) -> None:
        distributed.barrier()
        if distributed.rank() == 0:
            write_json(
                self.folder / "training.json", {**self.state, "settings": self.s.model_dump()}
            )
        self.tidy()
        guards.tell(self.t.name, self.state)

    def tidy(self) -> None:
        """The best weights become ``model``; the state to go on from goes."""
        if distributed.rank() == 0:
            for best in self.folder.glob("model-*"):
                best.rename(self.folder / "model")
            (self.folder / "progress.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.engine.destroy()


class Spread:
    """Values of a micro-batch's pairs, a list or a tensor [samples, pairs], to their places in [groups, size] or [samples, groups, size]."""

    def __init__(self, batch: list[list], size: int, device):
        self.shape = (len(batch), size)
        self.places = torch.tensor(
            [i * size + j for i, group in enumerate(batch) for j in range(len(group))],
            device=device,
        )

    def __call__(self, values) -> torch.Tensor:
        values = torch.as_tensor(values, dtype=torch.float32, device=self.places.device)
        found = values.new_zeros(*values.shape[:-1], self.shape[0] * self.shape[1])
        return found.index_copy(-1, self.places, values).unflatten(-1, self.shape)


def adversarial(s: Ranker, step: int) -> bool:
    """Whether a step (from 0) has its adversarial pass: none before ``fgm.start``, then a random ``fgm.share`` of them."""
    return step >= s.fgm.start and (
        s.fgm.share == 1 or bool(distributed.generator(s.seed, step, "fgm").random() < s.fgm.share)
    )


def trim_log(path: Path, step: int) -> None:
    """Drops the lines of steps that a stopped run took after its last state: they are taken again."""
    if path.exists() and distributed.rank() == 0:
        lines = [
            line
            for line in path.read_text("utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= step
        ]
        path.write_text("".join(lines), "utf-8")
