"""The cross-encoder as a learner: clean and adversarial passes of a micro-batch; dev nDCG@10."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from core import distributed
from core.distributed import generator
from core.errors import InputError
from core.records import TrainingPair
from core.settings import Fgm, Ranker
from ranking import adapters, guards
from ranking.adversary import FGM
from ranking.data import TrainingData
from ranking.guards import Dev
from ranking.losses import LOSSES, Groups
from ranking.model import CrossEncoder
from ranking.pairs import PairTokenizer, apart
from training.learner import Measured
from training.optimiser import parameter_groups
from training.order import micro_batches, per_process

Texts = Callable[[TrainingPair], tuple[str, str]]
"""The texts of a training pair: query, passage."""


class Batch(NamedTuple):
    """A micro-batch: the pairs of its samples, one sample after another."""

    inputs: list[dict[str, list[int]]]
    pairs: list[TrainingPair]
    teacher: list[float] | None
    first_stage: list[float] | None  # what is added to the logits
    sizes: list[int]  # pairs of each sample

    def divided(self, samples: int) -> "list[Batch]":
        """Micro-batches of so many samples, those of like length together."""
        spans = []  # of each sample, in the lists of pairs
        longest = []
        start = 0
        for size in self.sizes:
            span = slice(start, start + size)
            spans.append(span)
            longest.append(max(len(row["input_ids"]) for row in self.inputs[span]))
            start += size
        batches = []
        for numbers in micro_batches(longest, samples):
            batches.append(self.of([spans[number] for number in numbers]))
        return batches

    def of(self, spans: list[slice]) -> "Batch":
        """Some of the samples, by where their pairs stand."""
        inputs: list[dict[str, list[int]]] = []
        pairs: list[TrainingPair] = []
        sizes = []
        for span in spans:
            inputs += self.inputs[span]
            pairs += self.pairs[span]
            sizes.append(span.stop - span.start)
        return Batch(
            inputs=inputs,
            pairs=pairs,
            teacher=joined(self.teacher, spans),
            first_stage=joined(self.first_stage, spans),
            sizes=sizes,
        )


def joined(values: list[float] | None, spans: list[slice]) -> list[float] | None:
    """Parts of a list, one after another; None of none."""
    if values is None:
        return None
    parts: list[float] = []
    for span in spans:
        parts += values[span]
    return parts


class RankerLearner:
    """What a cross-encoder's training needs: model, tokenizer, data and texts.

    ``dev``: queries to choose the best weights by; None: the last weights are kept. ``teacher``:
    for each draw the teacher's logits by row, for losses that follow one. ``first_stage``: likewise
    what is added to the logits, where the ranker adds to the first stage.
    """

    metric = "nDCG@10"

    def __init__(
        self,
        name: str,
        settings: Ranker,
        model: CrossEncoder,
        tokenize: PairTokenizer,
        data: TrainingData,
        texts: Texts,
        dev: Dev | None = None,
        teacher: Any = None,
        first_stage: Any = None,
    ):
        self.name = name
        self.settings = settings
        self.model = model
        self.tokenize = tokenize
        self.data = data
        self.texts = texts
        self.dev = dev
        self.teacher = teacher
        self.first_stage = first_stage
        self.unit = "pair" if data.size == 1 else "group"
        self.per_step = data.order.per_step
        self.samples = per_process(  # of a micro-batch of this process
            name, settings.batch_size, data.size, distributed.world_size()
        )
        embedding = model.body.get_input_embeddings()
        if settings.freeze_embeddings:
            embedding.requires_grad_(False)
        self.fgm = None
        if settings.fgm.epsilon > 0:
            self.fgm = FGM(embedding, settings.fgm.epsilon, settings.fgm.norm)

    def parameter_groups(self) -> list[dict]:
        """Body and head, whose rates may differ."""
        return cross_encoder_groups(self.model, self.settings)

    def begin(self, step: int) -> None:
        """Nothing: a step depends on its number alone."""

    def waits(self, step: int) -> bool:
        """Never: all batches may be made ahead."""
        return False

    def batches(self, step: int) -> list[Batch]:
        """This process's share of the step, tokenised, in micro-batches of like length."""
        part = self.data.part(step, distributed.rank(), distributed.world_size())
        rows = numpy.concatenate(part.samples)
        pairs = self.data.draws[part.draw].pairs(rows)
        queries, passages = apart(self.texts(pair) for pair in pairs)
        inputs = self.tokenize(queries, passages)
        sizes = [len(sample) for sample in part.samples]
        teacher = None
        if self.teacher is not None:
            teacher = self.teacher[part.draw][rows].tolist()
        added = None
        if self.first_stage is not None:
            added = self.first_stage[part.draw][rows].tolist()
        batch = Batch(inputs, pairs, teacher, added, sizes)
        return batch.divided(self.samples)

    def learn(self, engine: Any, batch: Batch, step: int) -> dict[str, float]:
        """Clean loss, and with FGM the adversarial one, each backward through the engine."""
        settings = self.settings
        inputs = self.tokenize.pad(batch.inputs, engine.device)
        spread = Spread(batch.sizes, self.data.size, engine.device)
        labels = [pair.label for pair in batch.pairs]
        teacher = None if batch.teacher is None else spread(batch.teacher)
        added = 0.0 if batch.first_stage is None else spread(batch.first_stage)
        groups = Groups(
            labels=spread(labels),
            mask=spread([1.0] * len(labels)),
            teacher=teacher,
            temperature=settings.temperature,
            positive_weight=settings.positive_weight,
        )

        def backward() -> float:
            logits = spread(engine(**inputs).float()) + added
            loss = LOSSES[settings.loss](logits, groups)
            engine.backward(loss)
            return float(loss.detach())

        if self.fgm is None or not adversarial(settings.fgm, settings.seed, step):
            losses = {"clean": backward()}
        else:
            with self.fgm.watch():
                losses = {"clean": backward()}
            if math.isfinite(losses["clean"]):
                with self.fgm.perturb():
                    losses["adversarial"] = backward()
        if not all(map(math.isfinite, losses.values())):
            message = guards.not_finite(self.name, step + 1, losses, batch.pairs, engine, inputs)
            raise InputError(message)
        return losses

    def too_large(self, batches: list[Batch]) -> str:
        """What was in memory at once, and what to do."""
        longest = 0
        for batch in batches:
            longest = max(longest, *(len(row["input_ids"]) for row in batch.inputs))
        pairs = self.settings.batch_size // distributed.world_size()
        return (
            f"with {pairs} pairs of up to {longest} tokens at once; "
            "halve batch_size and double accumulation (the same steps), or set "
            "gradient_checkpointing=true, fgm.epsilon=0 or a DeepSpeed file with offloading"
        )

    def measure(self, engine: Any, step: int) -> Measured | None:
        """Dev nDCG@10; a warning where the scores have collapsed."""
        if self.dev is None:
            return None
        value, spread = self.dev(lambda inputs: engine(**inputs)[0])
        return Measured(value, guards.collapsed(self.name, step, spread))

    def baselines(self) -> dict[str, float]:
        """The first stage's own order of the dev candidates."""
        return {"first_stage": self.dev.first_stage} if self.dev else {}

    def save(self, folder: Path) -> None:
        """A folder that plain transformers loads, with any adapters merged."""
        body = self.model.body
        weights = adapters.merged(body) if self.settings.lora else None
        body.save_pretrained(folder, state_dict=weights)
        self.tokenize.save(folder)

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing beside weights and optimizer."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing."""

    def report(self, state: dict) -> None:
        """The closing table of first stage, base and tuned model."""
        guards.tell(self.name, state)


def cross_encoder_groups(model: CrossEncoder, settings: Ranker) -> list[dict]:
    """The optimizer's groups; the head may have a rate of its own."""

    def part_of(name: str) -> str:
        return "head" if adapters.in_head(model.body, name) else "body"

    rates = {
        "body": settings.learning_rate,
        "head": settings.head_learning_rate or settings.learning_rate,
    }
    return parameter_groups(
        model.body.named_parameters(), part_of, rates, weight_decay=settings.weight_decay
    )


class Spread:
    """Puts values of a micro-batch's pairs to their places in [samples, size].

    ``sizes``: pairs of each sample, at most ``size``; places that no pair takes are 0.
    """

    def __init__(self, sizes: list[int], size: int, device: Any):
        self.shape = (len(sizes), size)
        places: list[int] = []
        for sample, count in enumerate(sizes):
            first = sample * size
            places += range(first, first + count)
        self.places = torch.tensor(places, device=device)

    def __call__(self, values: Any) -> torch.Tensor:
        """[pairs] to [samples, size]; [dropouts, pairs] to [dropouts, samples, size]."""
        values = torch.as_tensor(values, dtype=torch.float32, device=self.places.device)
        samples, size = self.shape
        flat = values.new_zeros(*values.shape[:-1], samples * size)
        return flat.index_copy(-1, self.places, values).unflatten(-1, self.shape)


def adversarial(fgm: Fgm, seed: int, step: int) -> bool:
    """Whether a step (from 0) has its adversarial pass.

    None before ``fgm.start``, then a random ``fgm.share`` of them.
    """
    if step < fgm.start:
        return False
    return fgm.share == 1 or bool(generator(seed, step, "fgm").random() < fgm.share)
