"""What is known of a ranker: its settings checked, its languages and dev queries, its scorer.

Its training is in ``ranking.trainings``; a given one (``model: …``) in ``ranking.given``.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from core import backbones, embedded_ranker
from core.distributed import generator
from core.errors import InputError
from core.evaluate import score
from core.files import digest, file_digest
from core.records import Qrels, Run
from core.runs import ranked, top_k
from core.settings import Ranker
from core.steps import Step
from core.store import kept_beside
from core.task import Task, data_task, once
from ranking import backends, given
from ranking.adapters import check_layers
from ranking.pairs import PairTokenizer, apart
from ranking.rerank import (
    FIRST_STAGE,
    Scorer,
    Texts,
    candidate_pairs,
    reranked,
    with_first_stage,
)
from ranking.reranker import LENGTHS
from ranking.scores import Scores
from training import engine

if TYPE_CHECKING:
    import numpy as np

TAUGHT = ("margin_mse", "kl_divergence")  # losses that follow a teacher's scores


# ---- Data and chain


def task_of(task: Task, ranker: Ranker) -> Task:
    """Whose collection and pairs a ranker is trained on.

    Raises InputError where that has no recipe of the ranker's name.
    """
    source = data_task(task, ranker.data) if ranker.data else task
    if ranker.recipe not in source.config.data_aug:
        raise InputError(
            f"{ranker.data}: data_aug has no recipe {ranker.recipe!r}, which a ranker asks for; "
            f"it has {', '.join(source.config.data_aug)}"
        )
    return source


def origin(task: Task, name: str, seen: tuple[str, ...] = ()) -> Ranker:
    """The first ranker of a chain: its backbone and whether its vocabulary is pruned hold for all.

    ``seen``: the rankers that led here. Raises InputError for a chain in a ring, and for a start
    that is neither a ranker nor a folder.
    """
    known = task.config.ranking.trainings
    ranker = known[name]
    if name in seen:
        ring = [*seen[seen.index(name) :], name]
        raise InputError(f"ranking: {' starts from '.join(ring)}; a chain has a beginning")
    if ranker.start in known:
        return origin(task, ranker.start, (*seen, name))
    if ranker.start and not is_model(ranker.start):
        others = ", ".join([*(other for other in known if other != name), embedded_ranker.NAME])
        raise InputError(
            f"ranking: {name} starts from {ranker.start!r}, expected one of {others}, "
            "or a folder with a cross-encoder"
        )
    return ranker


def is_model(start: str) -> bool:
    """Whether a start that names no ranker is the embedded one, or a folder."""
    return start == embedded_ranker.NAME or Path(start).is_dir()


def note_chain(task: Task, name: str) -> str:
    """``pre → name`` as far as there is a chain."""
    known = task.config.ranking.trainings
    names = [name]
    while (start := known[names[0]].start) in known:
        names.insert(0, start)
    if start == embedded_ranker.NAME:
        names.insert(0, start)
    return " → ".join(names)


def transductive(task: Task, name: str) -> bool:
    """Whether a ranker was trained on unlabelled queries of a split that is evaluated.

    Also true where one that it starts from or learns from was.
    """
    known = task.config.ranking.trainings
    ranker = known[name]
    if ranker.model is not None:
        return False
    if ranker.data is None and task.config.data_aug[ranker.recipe].targets:
        return True
    others = [other for other in (ranker.start, ranker.teacher) if other in known]
    return any(transductive(task, other) for other in others)


# ---- Settings


def check(task: Task, name: str) -> None:
    """Raises InputError for settings of a ranker that contradict each other or name nothing."""
    ranking = task.config.ranking
    ranker = ranking.trainings[name]
    where = f"ranking: {name}"
    first = origin(task, name)
    if ranker.model is not None:
        given.check(task, name)
    check_layers(where, ranker, first)
    names_backbone = "backbone" in ranker.model_fields_set
    if ranker.start and names_backbone and ranker.backbone != first.backbone:
        raise InputError(
            f"{where} has start={ranker.start} and backbone={ranker.backbone}; "
            "a start brings its own backbone, take the setting away"
        )
    if ranker.loss in TAUGHT and ranker.teacher is None:
        raise InputError(
            f"{where}: loss={ranker.loss} needs a teacher: a ranker, a system of the first stage "
            "such as hybrid, or a folder of runs"
        )
    if ranker.loss not in TAUGHT and ranker.teacher is not None:
        raise InputError(
            f"{where}: loss={ranker.loss} has no use for teacher={ranker.teacher}; "
            f"{' and '.join(TAUGHT)} have"
        )
    check_after(where, ranker.after, ranking.rankers, name)
    if ranker.loss != "binary_cross_entropy" and ranker.batch_size % ranker.group_size:
        raise InputError(
            f"{where}: batch_size {ranker.batch_size} is not a multiple of group_size "
            f"{ranker.group_size}, and loss={ranker.loss} sees whole groups"
        )
    if ranker.model is None:
        check_room(name, ranker, ranker.max_length - ranker.query_length)
    if (ranker.depth or 0) > depth(task):
        raise InputError(
            f"{where}: depth {ranker.depth} is below the block that the ensemble fuses; "
            f"raise ranking.rerank.depth, now {depth(task)}"
        )


def check_room(name: str, ranker: Ranker, room: int) -> None:
    """Raises InputError where a query of full length leaves no ``room`` for a passage.

    The special pieces are known with the tokenizer alone: the plan asks without them, the training
    with them.
    """
    if room < 1:
        raise InputError(
            f"ranking: {name}: query_length {ranker.query_length} and the special pieces leave no "
            f"room for a passage in max_length {ranker.max_length}; "
            "lower query_length or raise max_length"
        )


def check_after(where: str, after: str | None, known: dict[str, Ranker], name: str) -> None:
    """A ranker that another one comes after is one of ``known``."""
    others = [other for other in known if other != name]
    if after is not None and after not in others:
        expected = ", ".join(others) or "nothing: there is no other ranker"
        raise InputError(f"{where}: after: found {after!r}, expected one of {expected}")


def depth(task: Task) -> int:
    """Of the block of candidates that is reranked and fused."""
    return task.config.block


def own_depth(task: Task, ranker: Ranker) -> int:
    """How many candidates of a query one ranker scores."""
    return min(ranker.depth or depth(task), depth(task))


# ---- Languages and dev queries


def languages_with(task: Task, *splits: str) -> list[str]:
    """Those that have topics for any of some splits."""
    languages = [la for la, _ in task.pairs(*splits)]
    return list(dict.fromkeys(languages))


def training_languages(task: Task, ranker: Ranker) -> list[str]:
    """Of a ranker's pairs; ``task`` is that of its data.

    Those with training topics, and with Q2Q2D and pseudo-labels those with unlabelled queries.
    Raises InputError where the ranker asks for another one.
    """
    config = task.config
    with_train = languages_with(task, config.splits.train)
    known = set(with_train)
    recipe = config.data_aug.get(ranker.recipe)
    if recipe and recipe.targets:
        known.update(languages_with(task, *recipe.targets))
    wrong = [la for la in ranker.languages if la not in known]
    if wrong:
        raise InputError(
            f"a ranker's languages: {', '.join(wrong)} have no training topics; "
            f"those with are {', '.join(with_train)}"
        )
    return ranker.languages or with_train


def dev_languages(task: Task, ranker: Ranker) -> list[str]:
    """Of the dev queries that a ranker is chosen or judged by.

    None that has no training topics; for a given ranker those that choose the ensemble's weights.
    """
    if ranker.model is not None:
        return task.weighing_languages()
    with_dev = languages_with(task, task.config.splits.dev)
    languages = training_languages(task, ranker)
    return [la for la in languages if la in with_dev and not task.surprise(la)]


def at_home(ranker: Ranker) -> Ranker:
    """The ranker as its dev queries are chosen from this configuration's own collection.

    The languages of a ranker that was trained on another collection do not hold here.
    """
    if ranker.data is None:
        return ranker
    return ranker.model_copy(update={"languages": [], "data": None})


def texts_of(task: Task, language: str, split: str) -> Texts:
    """A function from (query id, docid) pairs of a language and split to their texts."""
    queries = {query.qid: query.text for query in task.queries(language, split)}
    store = task.passages(language)

    def texts(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
        return apart((queries[qid], store.text(docid)) for qid, docid in pairs)

    return texts


def candidates(task: Task, ranker: Ranker, language: str, split: str) -> Run:
    """The hybrid's best, or in a cascade those of the ranker before."""
    before = task.run(ranker.after or "hybrid", language, split)
    return {qid: top_k(scores, task.config.candidates) for qid, scores in before.items()}


class Sampled(NamedTuple):
    """Of one language: queries with the hybrid's passages, and their judgments."""

    candidates: Run
    qrels: Qrels


class DevSample:
    """A sample of dev queries, ``count`` a language, and their candidates to ``depth``.

    The sample is fixed by the ranker's seed. ``first_stage`` is nDCG@10 of the hybrid's own order.
    """

    def __init__(self, task: Task, ranker: Ranker, count: int, depth: int):
        self.task = task
        self.split = task.config.splits.dev
        self.depth = depth
        self.chosen: dict[str, Sampled] = {}  # by language
        for language in dev_languages(task, ranker):
            self.chosen[language] = self.sample(language, ranker.seed, count)
        first_stage = {la: sampled.candidates for la, sampled in self.chosen.items()}
        self.first_stage = self.mean(first_stage) if first_stage else 0.0

    def sample(self, language: str, seed: int, count: int) -> Sampled:
        """Some judged queries of a language, in the order of their ids."""
        qrels = self.task.judgments(language, self.split)
        run = self.task.run("hybrid", language, self.split)
        qids = sorted(qrels)
        order = generator(seed, 0, "dev", language).permutation(len(qids))
        sampled = Sampled(candidates={}, qrels={})
        for place in sorted(order[:count]):
            qid = qids[place]
            sampled.candidates[qid] = run.get(qid, {})
            sampled.qrels[qid] = qrels[qid]
        return sampled

    def mean(self, runs: dict[str, Run]) -> float:
        """nDCG@10, a mean over languages."""
        return fmean(score(runs[la], sampled.qrels) for la, sampled in self.chosen.items())

    def pairs(self, language: str) -> list[tuple[str, str]]:
        """(query id, docid) of the best candidates, query by query."""
        return candidate_pairs(self.chosen[language].candidates, self.depth)

    def logits(self, scorer: Scorer) -> "dict[str, np.ndarray]":
        """Of each language's pairs."""
        found = {}
        for language in self.chosen:
            queries, passages = texts_of(self.task, language, self.split)(self.pairs(language))
            found[language] = scorer(queries, passages)
        return found

    def rerank(self, scorer: Scorer) -> dict[str, Run]:
        """The candidates of each language, the best of them by their scores."""
        return self.ranked(scorer, self.logits(scorer))

    def ranked(self, scorer: Scorer, logits: "dict[str, np.ndarray]") -> dict[str, Run]:
        """The same, of logits that the scorer gave."""
        runs: dict[str, Run] = {}
        for language, sampled in self.chosen.items():
            pairs = self.pairs(language)
            scores = with_first_stage(
                scorer.first_stage, sampled.candidates, pairs, logits[language]
            )
            runs[language] = reranked(sampled.candidates, pairs, scores)
        return runs

    def blocks(self, runs: dict[str, Run]) -> list[dict[str, float]]:
        """The scores of each query's reranked candidates."""
        blocks = []
        for language, run in runs.items():
            for qid, candidates in self.chosen[language].candidates.items():
                if candidates:
                    best = ranked(candidates)[: self.depth]
                    blocks.append({docid: run[qid][docid] for docid, _ in best})
        return blocks


# ---- Scoring


def tokenizer_of(task: Task, name: str, where: str | Path) -> PairTokenizer:
    """A ranker's way from texts to pieces; ``where`` is the folder or hub id of its tokenizer."""
    ranker = task.config.ranking.trainings[name]
    lengths = {"query_length": ranker.query_length, "max_length": ranker.max_length}
    if ranker.model is not None:  # they may be the model's own
        config = json.loads((Path(where) / "config.json").read_text("utf-8"))
        lengths = config[LENGTHS]
    return PairTokenizer(
        backbones.load_tokenizer(str(where)),
        lengths["query_length"],
        lengths["max_length"],
        pruned=origin(task, name).prune_vocabulary,
    )


def load(
    task: Task,
    name: str,
    trained: Step,
    backend: str = "torch",
    where: Path | None = None,
    number_format: str | None = None,
) -> Scorer:
    """A ranker's model as a scorer.

    In the ``number_format`` of its settings if no other is given; ``where``: the folder that the
    ``backend`` made of the model, if it made one.
    """
    model = trained.path / "model"
    if number_format is None:
        wanted = task.config.ranking.trainings[name].precision
        number_format = engine.precision(wanted, half=backends.bears_half(model))
    forward, device, known_as = backends.BACKENDS[backend](where or model, number_format)
    tokenize = tokenizer_of(task, name, model)
    files = sorted({*model.glob("*.safetensors"), model / "config.json"})
    digests = task.config.home / "digests"
    identity = digest(
        [
            [file_digest(path, digests) for path in files],
            tokenize.identity,
            tokenize.query_length,
            tokenize.max_length,
            known_as,
            device,
        ]
    )
    return Scorer(
        forward,
        tokenize,
        task.config.ranking.rerank.batch_tokens,
        device,
        identity,
        first_stage=first_stage_weight(trained),
    )


def first_stage_weight(trained: Step) -> float:
    """What a ranker multiplies the hybrid's scores with, which it adds to; 0 for most."""
    settings = json.loads((trained.path / "model" / "config.json").read_text("utf-8"))
    return settings.get(FIRST_STAGE, 0.0)


@once
def scores_of(task: Task, trained: Step, scorer: Scorer) -> Scores:
    """A ranker's score store, opened once for all its runs.

    It lies beside the step's output and goes with it.
    """
    return Scores(kept_beside(trained.path) / scorer.identity)
