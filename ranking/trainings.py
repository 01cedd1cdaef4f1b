"""A ranker's training: what it starts from, its data, its dev queries and its teacher's scores."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from core import backbones, distributed
from core.artefacts import TrainedRanker, TrainingGroups
from core.groups import open_mapped, write_mapped
from core.records import TrainingPair
from core.settings import Ranker
from core.steps import Step
from core.task import Task
from ranking.backends import bears_half
from ranking.data import TrainingData
from ranking.pairs import PairTokenizer
from ranking.rankers import (
    DevSample,
    check_room,
    load,
    origin,
    scores_of,
    task_of,
    tokenizer_of,
    training_languages,
)
from ranking.rerank import Scorer, score_pairs
from training import engine
from training.checkpoints import SCRATCH
from training.order import per_process

if TYPE_CHECKING:
    import numpy

    from ranking.learner import RankerLearner


def recipe(task: Task, name: str) -> dict:
    """What decides a ranker's weights, for its step.

    With the number format that ``precision: auto`` comes to on this machine, where that is not
    fp32: trainings in bf16 and in fp32 are two.
    """
    r = task.config.ranking.trainings[name]
    settings = r.recipe_settings
    if r.precision == "auto":
        resolved = number_format(task, name)
        if resolved != "fp32":
            settings["precision"] = resolved
    return settings


def number_format(task: Task, name: str) -> str:
    """What a ranker's ``precision`` comes to on this machine."""
    wanted = task.config.ranking.trainings[name].precision
    resolved = engine.precision(wanted)
    if resolved != "fp16":
        return resolved
    # Only here the model counts, so that only here its config.json is fetched
    return engine.precision(wanted, half=bears_half(weights_of(task, name)))


def weights_of(task: Task, name: str) -> str:
    """The folder or hub id of the weights that a ranker's chain begins with."""
    first = origin(task, name)
    return first.start or backbones.source(first.model or first.backbone, task.config.models)


def sample_size(r: Ranker) -> int:
    """Passages of a query that the loss sees together."""
    return 1 if r.loss == "binary_cross_entropy" else r.group_size


def check_division(task: Task) -> None:
    """Raises InputError for a ranker whose micro-batches the processes can't share evenly."""
    for name, r in task.config.ranking.trained.items():
        per_process(name, r.batch_size, sample_size(r), distributed.world_size())


def train(task: Task, name: str, steps: Any, folder: Path) -> None:
    """Trains a ranker in ``folder``, or goes on where it was stopped there."""
    from training.loop import Loop

    engine.start()
    loop = Loop(
        learner=learner(task, name, steps, folder),
        settings=task.config.ranking.trainings[name],
        folder=folder,
        number_format=number_format(task, name),
        other_world=task.config.ranking.other_world,
        other_world_setting="ranking.other_world",
    )
    loop.run()


def learner(task: Task, name: str, steps: Any, folder: Path) -> "RankerLearner":
    """The model with its data, dev queries and teacher; ``folder`` holds the mapped data."""
    import torch

    from ranking.learner import RankerLearner
    from ranking.model import CrossEncoder

    r = task.config.ranking.trainings[name]
    source = task_of(task, r)
    torch.manual_seed(distributed.seed_of(r.seed, 0, "head"))
    body, where = body_of(task, name, steps)
    if r.gradient_checkpointing:
        body.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    data = training_data(source, r, folder)
    tokenize = tokenizer_of(task, name, where)
    check_room(name, r, tokenize.room)
    batch_tokens = task.config.ranking.rerank.batch_tokens
    dev = LoopDev(source, r, tokenize, batch_tokens, distributed.device())
    teacher = None
    if r.teacher:
        trained = steps[TrainedRanker(r.teacher).step_name]
        teacher = teacher_scores(task, name, source, trained, data)
    return RankerLearner(
        name=name,
        settings=r,
        model=CrossEncoder(body, r.dropouts),
        tokenize=tokenize,
        data=data,
        texts=pair_texts(source),
        dev=dev if dev.chosen else None,
        teacher=teacher,
    )


def training_data(source: Task, r: Ranker, folder: Path) -> TrainingData:
    """The pairs of a ranker's recipe, mapped into memory and shared by the processes.

    The parquet files are turned once into an Arrow file in ``folder``, which goes at the end of
    the training.
    """
    training_languages(source, r)  # an unknown one is an error
    mapped = folder / SCRATCH / "groups.arrow"
    if distributed.rank() == 0 and not mapped.exists():
        made = source.step(TrainingGroups(r.recipe)).path
        draws = sorted(made.glob("draw-*.parquet"), key=lambda path: int(path.stem[5:]))
        write_mapped(draws, mapped)
    distributed.barrier()
    size = sample_size(r)
    return TrainingData(
        draws=open_mapped(mapped),
        seed=r.seed,
        per_step=r.batch_size // size * r.accumulation,
        size=size,
        languages=r.languages,
    )


class LoopDev(DevSample):
    """The sample that a training chooses its best weights by; see ``ranking.guards.Dev``."""

    def __init__(
        self, task: Task, ranker: Ranker, tokenize: PairTokenizer, batch_tokens: int, device: str
    ):
        super().__init__(task, ranker, ranker.dev_queries, ranker.dev_depth)
        self.tokenize, self.batch_tokens, self.device = tokenize, batch_tokens, device

    def __call__(self, forward: Callable) -> tuple[float, float]:
        """nDCG@10 and the mean standard deviation of a query's logits."""
        runs = self.rerank(Scorer(forward, self.tokenize, self.batch_tokens, self.device))
        spreads = [pstdev(block.values()) for block in self.blocks(runs)]
        return self.mean(runs), fmean(spreads)


def body_of(task: Task, name: str, steps: Any) -> tuple[Any, str | Path]:
    """The model that a training starts from, and where its tokenizer is."""
    r = task.config.ranking.trainings[name]
    if r.start:
        started = Path(r.start)
        if r.start in task.config.ranking.trainings:
            started = steps[TrainedRanker(r.start).step_name].path / "model"
        return backbones.load_cross_encoder(str(started), r.layers, r.attention), started
    source = backbones.source(r.backbone, task.config.models)
    body = backbones.load_cross_encoder(source, r.layers, r.attention)
    if not r.prune_vocabulary:
        return body, source
    vocabulary = steps[f"vocabulary/{r.backbone}"].path
    keep = json.loads((vocabulary / "keep.json").read_text())
    backbones.prune_embeddings(body, keep)
    return body, vocabulary


class PairTexts:
    """The texts of training pairs: (query, passage)."""

    def __init__(self, task: Task):
        self.queries: dict[tuple[str, str], str] = {}
        # train comes first among the splits: taken last, its query stands where an id is in two
        for language, split in reversed(task.pairs()):
            for query in task.queries(language, split):
                self.queries[language, query.qid] = query.text
        self.store = cache(task.passages)  # opened when first asked for: not all need be made

    def __call__(self, pair: TrainingPair) -> tuple[str, str]:
        """Of one pair."""
        passage = self.store(pair.passage_language or pair.language).text(pair.docid)
        return self.queries[pair.language, pair.qid], passage


def pair_texts(task: Task) -> PairTexts:
    """A function from a training pair to (query text, passage text)."""
    return PairTexts(task)


def teacher_scores(
    task: Task, name: str, source: Task, teacher: Step, data: TrainingData
) -> "list[numpy.ndarray]":
    """The teacher's logit of every training pair: float32 by row, an array a draw.

    They are scored before the training begins, each pair once however many draws have it. Rows
    that the ranker does not learn from are NaN.
    """
    import numpy as np

    teacher_name = task.config.ranking.trainings[name].teacher
    assert teacher_name is not None
    scorer = load(task, teacher_name, teacher)
    store = scores_of(task, teacher, scorer)
    text = pair_texts(source)

    def texts(part: Any) -> tuple[list[str], list[str]]:
        both = [text(passage.pair) for _, passage in part]
        return [query for query, _ in both], [passage for _, passage in both]

    distinct = DistinctPairs(data)
    logits = np.empty(len(distinct), np.float32)
    for language, span in distinct.by_language():
        pairs: Any = TaughtPairs(distinct, span)
        logits[span.start : span.stop] = score_pairs(
            scorer,
            store,
            pairs,
            texts,
            f"{teacher_name} teaches {name}, {language}",
        )
    return distinct.by_row(logits)


class TaughtPassage(NamedTuple):
    """The passage of a pair to score; messages name it by its docid."""

    pair: TrainingPair

    def __str__(self) -> str:
        return self.pair.docid


Taught = tuple[str, TaughtPassage]
"""(query id, passage), as ``score_pairs`` wants pairs to be."""


class DistinctPairs:
    """The pairs of all draws, each once: by language, passage's language, query and passage."""

    def __init__(self, data: TrainingData):
        import numpy as np

        self.draws, self.rows = data.draws, data.rows
        counts = [len(rows) for rows in data.rows]
        self.draw = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.row = np.concatenate(data.rows)
        places = [
            self.places(column) for column in ("docid", "qid", "passage_language", "language")
        ]
        order = np.lexsort(places)  # the last key decides first
        changed = np.zeros(len(order), bool)
        changed[:1] = True
        for place in places:
            in_order = place[order]
            changed[1:] |= in_order[1:] != in_order[:-1]
        self.first = order[changed]  # where each distinct pair stands in draw and row
        self.number = np.empty(len(order), np.int64)  # of its distinct pair, for each of them
        self.number[order] = np.cumsum(changed) - 1

    def __len__(self) -> int:
        return len(self.first)

    def places(self, column: str) -> "numpy.ndarray":
        """Of each pair's string in the order of all strings of a column."""
        import numpy as np
        import pyarrow.compute

        strings = self.draws[0].dictionary(column)
        place = np.empty(len(strings), np.int32)
        place[pyarrow.compute.sort_indices(strings).to_numpy()] = np.arange(len(strings))
        return place[np.concatenate(self.columns(column))]

    def by_language(self) -> list[tuple[str, range]]:
        """Each language with the numbers of its distinct pairs, in order."""
        import numpy as np

        codes = np.concatenate(self.columns("language"))[self.first]
        starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
        ends = [*starts[1:], len(codes)]
        names = self.draws[0].dictionary("language")
        return [
            (names[int(codes[start])].as_py(), range(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]

    def columns(self, column: str) -> "list[numpy.ndarray]":
        """A string column's codes of the rows in use, an array a draw."""
        both = zip(self.draws, self.rows, strict=True)
        return [draw.codes(column)[rows] for draw, rows in both]

    def pairs(self, numbers: range) -> list[TrainingPair]:
        """Some of them as Python objects."""
        import numpy as np

        firsts = self.first[numbers.start : numbers.stop : numbers.step]
        pairs: list[TrainingPair | None] = [None] * len(firsts)
        for number, draw in enumerate(self.draws):
            places = np.flatnonzero(self.draw[firsts] == number)
            of_draw = draw.pairs(self.row[firsts[places]])
            for place, pair in zip(places.tolist(), of_draw, strict=True):
                pairs[place] = pair
        return [pair for pair in pairs if pair is not None]

    def by_row(self, values: "numpy.ndarray") -> "list[numpy.ndarray]":
        """A value for each distinct pair, at the rows that are that pair; NaN elsewhere."""
        import numpy as np

        arrays = [np.full(len(draw), np.nan, np.float32) for draw in self.draws]
        for draw, array in enumerate(arrays):
            chosen = self.draw == draw
            array[self.row[chosen]] = values[self.number[chosen]]
        return arrays


class TaughtPairs(Sequence[Taught]):
    """Some distinct pairs, made when they are looked at."""

    def __init__(self, distinct: DistinctPairs, span: range):
        self.distinct, self.span = distinct, span

    def __len__(self) -> int:
        return len(self.span)

    @overload
    def __getitem__(self, index: int) -> Taught: ...
    @overload
    def __getitem__(self, index: slice) -> list[Taught]: ...
    def __getitem__(self, index: int | slice) -> Taught | list[Taught]:
        if isinstance(index, int):
            number = self.span[index]
            (pair,) = self.distinct.pairs(range(number, number + 1))
            return pair.qid, TaughtPassage(pair)
        return [(pair.qid, TaughtPassage(pair)) for pair in self.distinct.pairs(self.span[index])]
