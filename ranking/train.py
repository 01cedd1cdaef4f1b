"""The training loop of a cross-encoder, on DeepSpeed at every number of processes."""
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from core import distributed
from core.distributed import progress
from core.errors import InputError
from core.files import write_json
from core.settings import Ranker
from core.store import say
from ranking import engine as deep
from ranking.adversary import FGM
from ranking.data import TrainingData, micro_batches
from ranking.losses import binary_cross_entropy
from ranking.model import CrossEncoder
from ranking.pairs import PairTokenizer


@dataclass
class Training:
    """What a training needs: data, a tokenizer, a model, and a function from a scoring ``forward`` to dev nDCG@10 (None: no dev)."""
    name: str
    settings: Ranker
    model: CrossEncoder
    tokenize: PairTokenizer
    data: TrainingData
    dev_score: Callable[[Callable], float] | None


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate: up linearly over the share ``warmup`` of the steps, then down linearly to 0 at the end."""
    rising = warmup * steps
    return (step + 1) / rising if step + 1 <= rising else max(0.0, (steps - step) / max(1.0, steps - rising))


def parameter_groups(model: CrossEncoder, s: Ranker) -> list[dict]:
    """Body and head, with and without weight decay (biases and norms have none); ``peak`` is the group's rate at full height."""
    groups: dict[tuple[bool, bool], list] = {}
    base = model.body.base_model_prefix
    for name, parameter in model.body.named_parameters():
        if parameter.requires_grad:
            head = not name.startswith(base + ".") or ".pooler." in name
            groups.setdefault((head, parameter.ndim > 1), []).append(parameter)
    rates = {False: s.learning_rate, True: s.head_learning_rate or s.learning_rate}
    return [{"params": p, "lr": rates[head], "peak": rates[head], "weight_decay": s.weight_decay if decayed else 0.0}
            for (head, decayed), p in groups.items()]


class Loop:
    """One training in one folder: ``run`` goes on where the folder's last state is."""

    def __init__(self, training: Training, folder: Path):
        t, s = training, training.settings
        self.t, self.s, self.folder = t, s, folder
        number_format = deep.precision(s.precision)
        if s.freeze_embeddings:
            t.model.body.get_input_embeddings().requires_grad_(False)
        config = deep.settings(s.deepspeed, s.batch_size, s.accumulation, s.clip, number_format)
        self.engine = deep.make(t.model, torch.optim.AdamW(parameter_groups(t.model, s)), config)
        self.device = self.engine.device
        self.fgm = FGM(t.model.body.get_input_embeddings(), s.fgm.epsilon, s.fgm.norm) if s.fgm.epsilon > 0 else None
        self.state = {"step": 0, "best": -1.0, "best_step": 0, "world": distributed.world_size(), "history": []}

    def run(self) -> dict:
        self.resume()
        with progress(None, self.s.steps, f"train {self.t.name}", "step") as bar, (self.folder / "training.jsonl").open("a", encoding="utf-8") as log:
            bar.update(self.state["step"])
            for step in range(self.state["step"], self.s.steps):
                entry = {"step": step + 1, **self.step(step)}
                if (step + 1) % self.s.evaluate_every == 0 or step + 1 == self.s.steps:
                    entry["nDCG@10"] = self.evaluate(step + 1)
                if distributed.rank() == 0:
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                bar.set_postfix({k: f"{v:.3f}" for k, v in entry.items() if k in ("clean", "adversarial", "nDCG@10") and v is not None})
                bar.update()
        self.finish()
        return self.state

    def step(self, step: int) -> dict:
        """One optimizer step; the losses are means over this process's micro-batches."""
        torch.manual_seed(distributed.seed_of(self.s.seed, step, distributed.rank()))
        self.engine.train()
        factor = learning_rate(step, self.s.steps, self.s.warmup)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        pairs = self.t.data.step(step)
        texts = [self.t.data.texts(pair) for pair in pairs]
        rows = list(zip(self.t.tokenize([q for q, _ in texts], [p for _, p in texts]), [pair.label for pair in pairs]))
        losses = [self.micro_step(batch) for batch in micro_batches(rows, self.s.batch_size, distributed.rank(), distributed.world_size())]
        means = {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
        if not all(map(math.isfinite, means.values())):
            keys = ", ".join(f"{p.language}/{p.qid}/{p.docid}" for p in pairs[:3])
            raise InputError(f"{self.t.name}: the loss is {means} at step {step + 1} (pairs {keys}, …); lower learning_rate, or set precision=fp32")
        self.engine.step()
        return {**means, "lr": factor * self.s.learning_rate}

    def micro_step(self, batch: list) -> dict[str, float]:
        """Clean loss, and with FGM the adversarial one, each backward through the engine."""
        inputs = self.t.tokenize.pad([row for row, _ in batch], self.device)
        labels = torch.tensor([label for _, label in batch], device=self.device)
        if self.fgm is None:
            return {"clean": self.backward(inputs, labels)}
        with self.fgm.watch():
            clean = self.backward(inputs, labels)
        with self.fgm.perturb():
            return {"clean": clean, "adversarial": self.backward(inputs, labels)}

    def backward(self, inputs: dict, labels: torch.Tensor) -> float:
        loss = binary_cross_entropy(self.engine(**inputs), labels, self.s.positive_weight)
        self.engine.backward(loss)
        return float(loss.detach())

    def evaluate(self, step: int) -> float | None:
        """Dev nDCG@10; the best weights so far are kept, and a state to go on from is written."""
        self.engine.eval()
        found = self.t.dev_score(lambda inputs: self.engine(**inputs)[0]) if self.t.dev_score else None
        if found is None or found > self.state["best"]:
            self.state |= {"best": found if found is not None else -1.0, "best_step": step}
            self.save_best()
        self.state["history"].append([step, found])
        self.state["step"] = step
        self.save_state()
        if found is not None:
            say(f"  {self.t.name}: step {step} of {self.s.steps}, dev nDCG@10 {found:.4f}")
        return found

    def save_best(self) -> None:
        with deep.gathered(self.engine.module):
            if distributed.rank() == 0:
                part = self.folder / "best.part"
                shutil.rmtree(part, ignore_errors=True)
                self.t.model.body.save_pretrained(part)
                self.t.tokenize.tokenizer.save_pretrained(part)
                shutil.rmtree(self.folder / "model", ignore_errors=True)
                part.rename(self.folder / "model")
        distributed.barrier()

    def save_state(self) -> None:
        """DeepSpeed's own files under state/step-N; progress.json, written last, names the one to go on from."""
        tag = f"step-{self.state['step']}"
        self.engine.save_checkpoint(str(self.folder / "state"), tag=tag, save_latest=False)
        distributed.barrier()
        if distributed.rank() == 0:
            write_json(self.folder / "progress.json", self.state)
            for old in (self.folder / "state").glob("step-*"):
                if old.name != tag:
                    shutil.rmtree(old)
        distributed.barrier()

    def resume(self) -> None:
        note = self.folder / "progress.json"
        if not note.exists():
            return
        state = json.loads(note.read_text("utf-8"))
        if state["world"] != distributed.world_size():
            raise InputError(f"{self.folder}: was begun with {state['world']} processes, this run has {distributed.world_size()}; go on with as many, or remove the folder to start again")
        self.engine.load_checkpoint(str(self.folder / "state"), tag=f"step-{state['step']}")
        self.state = state
        trim_log(self.folder / "training.jsonl", state["step"])
        say(f"  {self.t.name}: going on at step {state['step']} of {self.s.steps}")

    def finish(self) -> None:
        distributed.barrier()
        if distributed.rank() == 0:
            shutil.rmtree(self.folder / "state")
            (self.folder / "progress.json").unlink()
            write_json(self.folder / "training.json", {**self.state, "settings": self.s.model_dump()})
        self.engine.destroy()


def trim_log(path: Path, step: int) -> None:
    """Drops the lines of steps that a stopped run took after its last state: they are taken again."""
    if path.exists() and distributed.rank() == 0:
        lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(lines), "utf-8")
