"""A ranker's training: what it starts from, its data and its dev queries."""

import json
from collections.abc import Callable
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from core import backbones, distributed
from core.artefacts import TrainedRanker, TrainingGroups
from core.errors import InputError
from core.groups import open_mapped, write_mapped
from core.records import TrainingPair
from core.settings import Ranker
from core.task import Task
from ranking import first_stage, teachers
from ranking.adapters import choose_trained
from ranking.backends import number_format_of
from ranking.data import TrainingData
from ranking.pairs import PairTokenizer
from ranking.rankers import (
    DevSample,
    check_room,
    origin,
    task_of,
    tokenizer_of,
    training_languages,
)
from ranking.rerank import FIRST_STAGE, Scorer
from training import engine
from training.checkpoints import SCRATCH
from training.order import per_process

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedModel

    from ranking.learner import RankerLearner


def recipe(task: Task, name: str) -> dict:
    """What decides a ranker's weights, for its step.

    With the number format that ``precision: auto`` or ``half`` comes to on this machine, where that
    is not fp32: trainings in bf16 and in fp32 are two.
    """
    ranker = task.config.ranking.trainings[name]
    settings = ranker.recipe_settings
    if ranker.precision in ("auto", "half"):
        resolved = number_format(task, name)
        if resolved != "fp32":
            settings["precision"] = resolved
    return settings


def number_format(task: Task, name: str) -> str:
    """What a ranker's ``precision`` comes to on this machine."""
    wanted = task.config.ranking.trainings[name].precision
    first = origin(task, name)
    weights = first.start or first.model or first.backbone
    return number_format_of(wanted, weights, task.config.models)


def sample_size(ranker: Ranker) -> int:
    """Passages of a query that the loss sees together."""
    return 1 if ranker.loss == "binary_cross_entropy" else ranker.group_size


def check_division(task: Task) -> None:
    """Raises InputError for a ranker whose micro-batches the processes can't share evenly.

    Only one that is still to be trained: any number of processes can score.
    """
    processes = distributed.world_size()
    for name, ranker in task.config.ranking.trained.items():
        if task.step(TrainedRanker(name)).done:
            continue
        per_process(name, ranker.batch_size, sample_size(ranker), processes)


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

    ranker = task.config.ranking.trainings[name]
    source = task_of(task, ranker)
    torch.manual_seed(distributed.seed_of(ranker.seed, 0, "head"))
    body, where = body_of(task, name, steps)
    make_ready(body, ranker, name)
    data = training_data(source, ranker, folder)
    tokenize = tokenizer_of(task, name, where)
    check_room(name, ranker, tokenize.room)
    check_positions(name, ranker, body, tokenize.tokenizer)
    batch_tokens = task.config.ranking.rerank.batch_tokens
    weight = 0.0
    added = None
    if ranker.first_stage is not None:
        weight, added = first_stage.weighted(task, name, data)
    keep_weight(body, weight)
    dev = LoopDev(source, ranker, tokenize, batch_tokens, distributed.device(), weight)
    texts = PairTexts(source)
    teacher = None
    if ranker.teacher:
        teacher = teachers.scores(task, name, steps, data, texts)
    return RankerLearner(
        name=name,
        settings=ranker,
        model=CrossEncoder(body, ranker.dropouts),
        tokenize=tokenize,
        data=data,
        texts=texts,
        dev=dev if dev.chosen else None,
        teacher=teacher,
        first_stage=added,
    )


def check_positions(name: str, ranker: Ranker, body: "PreTrainedModel", tokenizer: Any) -> None:
    """Raises InputError for pairs that are longer than the body has positions for."""
    most = backbones.positions(body.config, tokenizer)
    if most is not None and ranker.max_length > most:
        raise InputError(
            f"ranking: {name}: max_length: found {ranker.max_length}, expected at most {most}, "
            f"the positions that its body {ranker.backbone} has"
        )


def keep_weight(body: "PreTrainedModel", weight: float) -> None:
    """Notes the first stage's weight in the model's config, or that there is none.

    A start may have brought one.
    """
    if weight:
        setattr(body.config, FIRST_STAGE, weight)
    elif hasattr(body.config, FIRST_STAGE):
        delattr(body.config, FIRST_STAGE)


def make_ready(body: "PreTrainedModel", ranker: Ranker, name: str) -> None:
    """Sets up a model to learn as a ranker's settings say."""
    from ranking.model import set_body_dropout
    from ranking.packed import can_pack, pack

    if ranker.gradient_checkpointing:
        checkpoint_activations(body)
    if ranker.body_dropout is not None:
        set_body_dropout(body, ranker.body_dropout)
    choose_trained(body, ranker, name)  # behind the dropout, as adapters have one of their own
    if can_pack(body):
        pack(body)


def training_data(source: Task, ranker: Ranker, folder: Path) -> TrainingData:
    """The pairs of a ranker's recipe, mapped into memory and shared by the processes.

    The parquet files are turned once into an Arrow file in ``folder``, which goes at the end of
    the training.
    """
    training_languages(source, ranker)  # an unknown one is an error
    mapped = folder / SCRATCH / "groups.arrow"
    if distributed.rank() == 0 and not mapped.exists():
        groups = source.step(TrainingGroups(ranker.recipe)).path
        write_mapped(sorted(groups.glob("draw-*.parquet"), key=draw_number), mapped)
    distributed.barrier()
    size = sample_size(ranker)
    return TrainingData(
        draws=open_mapped(mapped),
        seed=ranker.seed,
        per_step=ranker.batch_size // size * ranker.accumulation,
        size=size,
        languages=ranker.languages,
    )


def draw_number(path: Path) -> int:
    """N of a file ``draw-N.parquet``."""
    return int(path.stem.removeprefix("draw-"))


class LoopDev(DevSample):
    """The sample that a training chooses its best weights by; see ``ranking.guards.Dev``."""

    def __init__(
        self,
        task: Task,
        ranker: Ranker,
        tokenize: PairTokenizer,
        batch_tokens: int,
        device: str,
        weight: float,  # of the first stage's scores
    ):
        super().__init__(task, ranker, ranker.dev_queries, ranker.dev_depth)
        self.tokenize = tokenize
        self.batch_tokens = batch_tokens
        self.device = device
        self.weight = weight

    def __call__(self, forward: Callable) -> tuple[float, float]:
        """nDCG@10 and the mean standard deviation of a query's logits."""
        scorer = Scorer(
            forward, self.tokenize, self.batch_tokens, self.device, first_stage=self.weight
        )
        logits = self.logits(scorer)
        return self.mean(self.ranked(scorer, logits)), fmean(self.spreads(logits))

    def spreads(self, logits: "dict[str, numpy.ndarray]") -> list[float]:
        """The standard deviation of each query's logits, without what is added to them."""
        spreads = []
        for language, values in logits.items():
            in_order = zip(self.pairs(language), values.tolist(), strict=True)
            for _, of_query in groupby(in_order, key=lambda entry: entry[0][0]):
                spreads.append(pstdev(value for _, value in of_query))
        return spreads


def body_of(task: Task, name: str, steps: Any) -> tuple[Any, str | Path]:
    """The model that a training starts from, and where its tokenizer is."""
    known = task.config.ranking.trainings
    ranker = known[name]
    where: str | Path
    if ranker.start in known:
        where = steps[TrainedRanker(ranker.start).step_name].path / "model"
    else:
        where = backbones.source(ranker.start or ranker.backbone, task.config.models)
    body = backbones.load_cross_encoder(
        str(where), ranker.layers, ranker.attention, number_format(task, name)
    )
    if ranker.start or not ranker.prune_vocabulary:  # a start has its own vocabulary
        return body, where
    vocabulary = steps[f"vocabulary/{ranker.backbone}"].path
    keep = json.loads((vocabulary / "keep.json").read_text())
    backbones.prune_embeddings(body, keep)
    return body, vocabulary


def checkpoint_activations(body: Any) -> None:
    """Each layer's activations are computed again in the backward pass.

    Transformers then asks for the gradient of the embedded tokens, which only its older, reentrant
    way needs: with it the backward pass would go through frozen layers, too.
    """
    body.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    body.disable_input_require_grads()


class PairTexts:
    """A function from a training pair to (query text, passage text)."""

    def __init__(self, task: Task):
        self.queries: dict[tuple[str, str], str] = {}
        # train comes first among the splits: taken last, its query stands where an id is in two
        for language, split in reversed(task.pairs()):
            for query in task.queries(language, split):
                self.queries[language, query.qid] = query.text
        self.store = cache(task.passages)  # opened when first asked for: not all need be made

    def __call__(self, pair: TrainingPair) -> tuple[str, str]:
        """Of one pair."""
        passages = self.store(pair.passage_language or pair.language)
        return self.queries[pair.language, pair.qid], passages.text(pair.docid)
