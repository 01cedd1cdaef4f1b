"""The bi-encoder as a learner: what a batch is, how its vectors are made, and their loss."""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core import distributed
from core.encoders import Encoder
from core.errors import InputError
from retrieval.encoder import BiEncoder, Layout, save
from retrieval.encoders.batch import NONE, Batch, Shape
from retrieval.encoders.batches import Batches
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.dev import Dev
from retrieval.encoders.encoding import Chunk, Encode, chunks, on_all, placed
from retrieval.encoders.in_batch import Link
from retrieval.encoders.material import Entry, Material
from retrieval.encoders.negatives import Negatives
from retrieval.encoders.pairs import Pairs
from training.gather import gather
from training.guards import culprit
from training.learner import Measured
from training.optimiser import parameter_groups
from training.order import per_process, share

TEMPERATURES = {"dot": 1.0, "cosine": 0.05}
"""Of scores where none is set, by the similarity."""


class EncoderLearner:
    """What a bi-encoder's training needs: model, texts, and an entry of each table.

    ``dev``: what to choose the best weights by; None: the last weights are kept.
    """

    metric = "MRR@100"
    unit = "example"

    def __init__(
        self,
        material: Material,
        model: BiEncoder,
        layout: Layout,
        pairs: Pairs,
        batches: Batches,
        negatives: Negatives | None,
        links: Sequence[Link],
        dev: Dev | None = None,
    ):
        settings = material.settings
        self.material = material
        self.name = material.name
        self.settings: Encoder = settings
        self.model = model
        self.layout = layout
        self.tokens = material.tokens
        self.pairs = pairs
        self.order = batches
        self.negatives = negatives
        self.links = list(links)
        self.dev = dev
        self.per_step = settings.batch_size * settings.accumulation
        own = per_process(self.name, settings.batch_size, 1, distributed.world_size())
        self.shape = Shape(own, settings.draw.number if negatives else 0)
        similarity = "cosine" if layout.normalise else "dot"
        self.temperature = settings.temperature or TEMPERATURES[similarity]
        self.encode = Encode(model, self.tokens, settings.batch_tokens)

    @property
    def entries(self) -> dict[str, Entry]:
        """All that may have a state, by what its tensors are kept under."""
        entries: dict[str, Entry] = {"batches": self.order}
        if self.negatives:
            entries["negatives"] = self.negatives
        for name, link in zip(self.settings.in_batch, self.links, strict=True):
            entries[name] = link
        return entries

    def parameter_groups(self) -> list[dict]:
        """All parameters at one rate."""
        rates = {"all": self.settings.learning_rate}
        return parameter_groups(
            self.model.named_parameters(), lambda _: "all", rates, self.settings.weight_decay
        )

    def begin(self, step: int) -> None:
        """Clusters, mined negatives and momentum encoders follow the model, where there are any."""
        for entry in self.entries.values():
            entry.begin(step, self.encode)

    def waits(self, step: int) -> bool:
        """Where an entry changes what the step's batches are."""
        return any(entry.waits(step) for entry in self.entries.values())

    # ---- Batches

    def batches(self, step: int) -> list[Batch]:
        """This process's part of each batch of a step, tokenised."""
        made = []
        for part, numbers in enumerate(self.order.of_step(step)):
            made.append(self.batch(numbers, step, step * self.settings.accumulation + part))
        return made

    def batch(self, numbers: np.ndarray, step: int, number: int) -> Batch:
        """A batch of some examples, of all processes; see ``Batch``."""
        rank, world = distributed.rank(), distributed.world_size()
        positives = self.pairs.positives(numbers, number)
        drawn = np.zeros((len(numbers), 0), np.int64)
        if self.negatives:
            drawn = self.negatives.draw(numbers, number)
        passages = np.concatenate([positives[:, None], drawn], axis=1)
        columns = [self.places(share(passages, other, world)) for other in range(world)]

        # Each process takes every world-th example
        mine = share(np.arange(len(numbers)), rank, world)
        queries, views = self.pairs.views(numbers[mine], positives[mine], number)
        is_drawn = drawn[mine] != NONE
        drawn_rows = self.tokens.rows(self.material.corpus.texts(drawn[mine][is_drawn]), "passage")
        positive_places = np.arange(len(mine)) * (1 + self.shape.negatives)
        drawn_places = positive_places[:, None] + 1 + np.arange(self.shape.negatives)
        weights = self.order.weights(numbers)
        return Batch(
            number=number,
            step=step,
            shape=self.shape,
            examples=numbers[mine],
            languages=self.languages(numbers[mine]),
            queries=queries,
            passages=views + drawn_rows,
            passage_places=np.concatenate([positive_places, drawn_places[is_drawn]]),
            columns=np.concatenate(columns),
            own_columns=rank * self.shape.passages + positive_places,
            own_relevant=self.pairs.relevant(numbers[mine]),
            weights=np.ones(len(mine), np.float32) if weights is None else weights[mine],
            count=len(numbers),
        )

    def places(self, passages: np.ndarray) -> np.ndarray:
        """A process's passages [queries, 1 + negatives] at its places, which may be more."""
        columns = np.full(self.shape.passages, NONE, np.int64)
        columns[: passages.size] = passages.ravel()
        return columns

    def languages(self, numbers: np.ndarray) -> list[str]:
        """Of each example."""
        names = np.empty(len(numbers), object)
        for language, span in self.pairs.spans.items():
            names[(numbers >= span.start) & (numbers < span.stop)] = language
        return names.tolist()

    # ---- A batch's vectors and their loss

    def learn(self, engine: Any, batch: Batch, step: int) -> dict[str, float]:
        """The contrastive loss over the passages of all processes, backward through the engine."""
        passes = self.passes(engine, batch)
        if self.settings.gradient_caching:
            scored, value = self.learn_cached(engine, passes, batch)
        else:
            vectors = torch.cat([one.vectors() for one in passes])
            scored, loss = self.loss(passes, vectors, batch)
            value = self.checked(loss, batch, engine)
            engine.backward(loss)
        for link in self.links:
            link.after(scored, batch)
        return {"loss": value}

    def learn_cached(self, engine: Any, passes: "list[Pass]", batch: Batch) -> tuple[Scored, float]:
        """Gradient caching (Gao et al. 2021): memory of one chunk's graph, not of the batch's.

        Vectors are made without graphs, the loss gives their gradients, and each chunk is made
        once more to carry its part of them into the weights.
        """
        with torch.no_grad():
            parts = [one.vectors() for one in passes]
        vectors = torch.cat(parts).requires_grad_()
        scored, loss = self.loss(passes, vectors, batch)
        value = self.checked(loss, batch, engine)
        (gradient,) = torch.autograd.grad(loss, vectors)
        own = gradient.split([len(part) for part in parts])
        for numbers in backward_passes(passes):
            carried = torch.zeros((), device=vectors.device)
            for number in numbers:
                carried = carried + (passes[number].vectors() * own[number]).sum()
            engine.backward(carried)
        return scored, value

    def passes(self, engine: Any, batch: Batch) -> "list[Pass]":
        """The forward passes of a batch, as many on each process.

        Texts of both sides go together where one body encodes both.
        """
        keys = None
        for link in self.links:
            keys = keys or link.keys()
        query_tower, passage_tower = self.model.tower("query"), self.model.tower("passage")
        # (model, tower) -> token ids and their places: queries first, then passages
        texts: dict[tuple[Any, str], tuple[list[list[int]], list[int]]] = {}
        texts[engine, query_tower] = (list(batch.queries), list(range(len(batch.queries))))
        rows, places = texts.setdefault((keys or engine, passage_tower), ([], []))
        rows += batch.passages
        places += (self.shape.queries + batch.passage_places).tolist()

        budget = self.encode.batch_tokens
        made = on_all([chunks(rows, places, budget) for rows, places in texts.values()])
        passes: list[Pass] = []
        for (model, tower), own in zip(texts, made, strict=True):
            for chunk in own:
                seed = self.seed(batch.number, len(passes))
                pad = partial(self.tokens.pad, device=engine.device)
                passes.append(Pass(model, tower, chunk, seed, pad, trained=model is engine))
        return passes

    def seed(self, batch: int, chunk: int) -> int:
        """Of the dropout of a chunk on this process."""
        return distributed.seed_of(self.settings.seed, batch, distributed.rank(), chunk)

    def loss(
        self, passes: "list[Pass]", vectors: torch.Tensor, batch: Batch
    ) -> tuple[Scored, torch.Tensor]:
        """What is scored, and its loss, of the vectors of all passes, one after another.

        The engine takes the mean over processes, so each gives its queries' losses over a
        process's share of all queries.
        """
        places: list[int] = []
        for one in passes:
            places += one.chunk.places
        places_of_rows = torch.tensor(places, dtype=torch.int64, device=vectors.device)
        own = placed(vectors, places_of_rows, self.shape.queries + self.shape.passages)
        queries, passages = own.split([self.shape.queries, self.shape.passages])
        scored = scored_of(batch, queries, gather(passages))
        for link in self.links:
            link.score(scored, batch)
        weights = torch.zeros(self.shape.queries, device=vectors.device)
        weights[: len(batch.weights)] = torch.from_numpy(batch.weights).to(vectors.device)
        queries_of_a_process = batch.count / distributed.world_size()
        return scored, scored.loss(self.temperature, weights, queries_of_a_process)

    def checked(self, loss: torch.Tensor, batch: Batch, engine: Any) -> float:
        """The loss as a number. Raises InputError where it is none."""
        value = float(loss.detach())
        if math.isfinite(value):
            return value
        inputs: dict[str, Any] = {"tower": self.model.tower("query")}
        inputs |= self.tokens.pad(batch.queries, engine.device)
        raise InputError(
            f"{self.name}: the loss is {value} at step {batch.step + 1} "
            f"(passages {self.named(batch)}; first {culprit(engine, inputs)}); "
            "lower learning_rate, raise temperature, set precision=fp32, or look at these texts"
        )

    def named(self, batch: Batch) -> str:
        """The first positives of a batch, for messages."""
        ids = batch.columns[batch.own_columns]
        keys = [f"{language}/{docid}" for language, docid in self.material.corpus.docids(ids[:8])]
        return ", ".join(keys) + (", …" if len(ids) > 8 else "")

    def too_large(self, batches: list[Batch]) -> str:
        """What was in memory at once, and what to do."""
        texts = self.shape.queries + self.shape.passages
        cached = self.settings.gradient_caching
        advice = "lower batch_tokens" if cached else "set gradient_caching=true (the same steps)"
        return (
            f"with {texts} texts of up to {self.tokens.longest} tokens at once; "
            f"{advice}, lower batch_size, or set gradient_checkpointing=true"
        )

    # ---- Measuring and keeping

    def measure(self, engine: Any, step: int) -> Measured | None:
        """MRR@100 on the sampled corpus; Recall@100 and each language's go into the dev file."""
        if self.dev is None:
            return None
        values = self.dev.measure(self.encode)
        if distributed.rank() == 0:
            self.dev.note(self.material.folder, step, values)
        return Measured(values.mean[self.metric], values.warning)

    def baselines(self) -> dict[str, float]:
        """None that the training itself knows."""
        return {}

    def save(self, folder: Path) -> None:
        """A sentence-transformers model."""
        with self.tokens.lock:  # the tokenizer may be at work in another thread
            save(self.model, self.tokens.tokenizer, self.layout, self.tokens.lengths, folder)

    def state(self) -> dict[str, torch.Tensor]:
        """Of all entries, each under its name."""
        state = {}
        for name, entry in self.entries.items():
            for key, tensor in entry.state().items():
                state[f"{name}/{key}"] = tensor
        return state

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Gives each entry its own."""
        for name, entry in self.entries.items():
            own = {}
            for key, tensor in state.items():
                if key.startswith(f"{name}/"):
                    own[key.removeprefix(f"{name}/")] = tensor
            entry.restore(own)

    def report(self, state: dict) -> None:
        """What the training came to."""
        if self.dev is not None:
            self.dev.tell(self.name, state)


class Pass(NamedTuple):
    """A forward pass that can be made twice alike: its dropout comes from ``seed``."""

    model: Any
    tower: str
    chunk: Chunk
    seed: int
    pad: Callable[[list[list[int]]], dict[str, torch.Tensor]]
    trained: bool  # otherwise its vectors have no gradient

    def vectors(self) -> torch.Tensor:
        """Float32 [texts, dimension]."""
        torch.manual_seed(self.seed)
        with contextlib.nullcontext() if self.trained else torch.no_grad():
            vectors = self.model(self.tower, **self.pad(self.chunk.rows))
        return vectors[: len(self.chunk.places)]


def backward_passes(passes: list[Pass]) -> list[list[int]]:
    """The numbers of the passes that go backward together, with gradient caching.

    One by one, but for the first of each body, which are one: at ZeRO 3 DeepSpeed adds what a
    parameter gets after a step's first backward pass to what it finds, and that is the last step's
    gradient where the first one did not go through the parameter.
    """
    firsts: dict[str, int] = {}
    others = []
    for number, one in enumerate(passes):
        if not one.trained:
            continue
        if one.tower in firsts:
            others.append([number])
        else:
            firsts[one.tower] = number
    return [list(firsts.values()), *others]


def scored_of(batch: Batch, queries: torch.Tensor, passages: torch.Tensor) -> Scored:
    """The own queries [places, dimension] against the passages of all processes.

    A query's positive is its own passage; all others that are there are its negatives, but those
    that are relevant to it.
    """
    own = len(batch.own_columns)
    positive = np.zeros((len(queries), len(passages)), bool)
    positive[np.arange(own), batch.own_columns] = True
    negative = np.zeros_like(positive)
    negative[:own] = batch.columns != NONE
    negative[batch.relevant_among(batch.columns)] = False
    device = queries.device
    return Scored(
        queries,
        passages,
        batch.columns,
        torch.from_numpy(positive).to(device),
        torch.from_numpy(negative).to(device),
    )
