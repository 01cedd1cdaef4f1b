"""Scoring on a Ray cluster: chunks of candidate pairs by number, kept in the score store.

An actor reads the candidates itself and writes what it scored as segments of the store; its note is
the name under which the store knows its way of scoring. The machine that leads loads no ranker.
"""

import math

import numpy as np

from core import cluster
from core.artefacts import RankedRun, TrainedRanker
from core.console import progress
from core.errors import InputError
from core.steps import Step
from core.store import kept_beside
from core.task import Task, once
from ranking import rankers
from ranking.rerank import CHUNK, Pairs, Scorer, Texts, candidate_pairs, chunk_of, score_chunk
from ranking.scores import KEY, Scores, keys

BLOCK = "the pairs that are being scored"


def score(task: Task, scorer: Scorer, name: str, language: str, split: str, number: int) -> str:
    """One chunk of a run's pairs, on an actor; says how the store knows the scorer."""
    pairs = block(task, name, language, split)
    chunk = chunk_of(pairs, number)
    texts = rankers.texts_of(task, language, split)
    store = rankers.scores_of(task, task.step(TrainedRanker(name)), scorer)
    what = f"{name} {language}-{split}"
    with progress(None, len(chunk), what, "pair") as bar:
        score_chunk(scorer, store, chunk, keys(*texts(chunk)), texts, what, bar)
    return scorer.identity


def block(task: Task, name: str, language: str, split: str) -> Pairs:
    """The pairs that a ranker scores of a run; the last ones that were asked for stay."""
    wanted = (name, language, split)
    kept, pairs = task.kept.pop(BLOCK, (None, []))
    if kept != wanted:
        ranker = task.config.ranking.rankers[name]
        run = rankers.candidates(task, ranker, language, split)
        pairs = candidate_pairs(run, rankers.own_depth(task, ranker))
    task.kept[BLOCK] = (wanted, pairs)
    return pairs


def scores(task: Task, name: str, pairs: Pairs, texts: Texts, what: str) -> np.ndarray:
    """Scores of a run's pairs, fp32 in their order, once a cluster has made them."""
    trained = task.step(TrainedRanker(name))
    store = Scores(kept_beside(trained.path) / scored_together(task, name))
    wanted = [np.empty(0, KEY)]  # there may be no pairs at all
    for number in range(math.ceil(len(pairs) / CHUNK)):
        wanted.append(keys(*texts(chunk_of(pairs, number))))
    all_wanted = np.concatenate(wanted)

    def are_there() -> bool:
        store.refresh()
        return not np.isnan(store.get(all_wanted)).any()

    cluster.wait_for(are_there, f"scores of {what}")
    return store.get(all_wanted)


@once
def scored_together(task: Task, name: str) -> str:
    """Lets a cluster score all runs of a ranker that are to be made, and says how they are known.

    All at once, so that the ranker is loaded once. Raises InputError where machines score in ways
    that the store tells apart.
    """
    splits = task.config.splits
    depth = rankers.own_depth(task, task.config.ranking.rankers[name])
    items: list[tuple[Step, int]] = []
    for language, split in task.pairs(splits.dev, splits.test):
        step = task.step(RankedRun(name, language, split))
        inputs_are_made = all(source.done for source in step.inputs if isinstance(source, Step))
        if step.done or not inputs_are_made:
            continue
        most = len(task.queries(language, split)) * depth
        items += [(step, number) for number in range(math.ceil(most / CHUNK))]
    ways = sorted(set(cluster.share_steps(task.config, items, f"scores of {name}")))
    if len(ways) != 1:
        raise InputError(
            f"{name}: the machines score it in {len(ways)} ways (on a CPU and on GPUs, or in other "
            "number formats); let all have GPUs (ray.num_gpus=1), or none"
        )
    return ways[0]
