"""Who teaches a ranker, and the teacher's score of every training pair.

A teacher is another ranker, which scores the pairs; a system of the first stage, whose runs are
there; or a folder of runs, LANG-SPLIT.trec.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from core.artefacts import TrainedRanker
from core.config import did_you_mean
from core.console import say
from core.errors import InputError
from core.records import TrainingPair
from core.settings import Ranker
from core.steps import Files, Step
from core.task import Task
from ranking.data import TrainingData
from ranking.distinct import DistinctPairs
from ranking.pairs import apart
from ranking.rankers import load, scores_of, task_of
from ranking.rerank import score_pairs
from ranking.run_scores import Runs, scores_in_runs

if TYPE_CHECKING:
    import numpy

PairText = Callable[[TrainingPair], tuple[str, str]]
"""The texts of a training pair: query, passage."""


# ---- Settings and inputs


def check(task: Task, name: str) -> None:
    """Raises InputError for a teacher that is none, lacks a run, or learns from its pupil."""
    known = task.config.ranking.trainings
    ranker = known[name]
    where = f"ranking: {name}"
    if ranker.teacher is None:
        if ranker.teacher_scale != 1:
            raise InputError(
                f"{where}: teacher_scale={ranker.teacher_scale} is of no effect without a teacher; "
                "set one, or take the setting away"
            )
        return
    systems = task_of(task, ranker).config.retrieval.systems
    others = [other for other in known if other != name]
    if ranker.teacher in others:
        check_ring(known, name)
        check_scores_alone(known, name)
    elif ranker.teacher in systems:
        return
    elif Path(ranker.teacher).is_dir():
        check_folder(task, name)
    else:
        rankers = f"another ranker ({', '.join(others)})" if others else "another ranker"
        raise InputError(
            f"{where}: teacher: found {ranker.teacher!r}, expected {rankers}, a system of the "
            f"first stage ({', '.join(systems)}) or a folder of runs, LANG-SPLIT.trec"
            f"{did_you_mean([ranker.teacher], [*others, *systems])}"
        )


def check_ring(known: dict[str, Ranker], name: str) -> None:
    """Raises InputError for a ranker that is made, by start and teacher, of itself."""
    made_of = [name]
    for member in made_of:  # which grows meanwhile
        for other in (known[member].start, known[member].teacher):
            if other == name:
                raise InputError(
                    f"ranking: {name} is made of {member}, and {member} of {name}, by start and "
                    "teacher; a chain has a beginning"
                )
            if other in known and other not in made_of:
                made_of.append(other)


def check_scores_alone(known: dict[str, Ranker], name: str) -> None:
    """Raises InputError for a teacher whose logits are only a part of its scores."""
    teacher = known[name].teacher
    assert teacher is not None
    if known[teacher].first_stage is not None:
        raise InputError(
            f"ranking: {name}: teacher: {teacher} adds its logits to the first stage's scores "
            f"({teacher}.first_stage), and they teach nothing without them; expected a ranker "
            f"without that setting, or a folder with runs of {teacher}"
        )


def check_folder(task: Task, name: str) -> None:
    """Raises InputError for a folder that lacks a run of a language that the ranker learns from."""
    ranker = task.config.ranking.trainings[name]
    assert ranker.teacher is not None
    folder = Path(ranker.teacher)
    runs = runs_of(task, name)
    wanted = [runs.file(*of) for of in runs.splits()]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        found = sorted(path.name for path in folder.glob("*.trec"))
        raise InputError(
            f"ranking: {name}: teacher: {folder}: found {', '.join(found) or 'no .trec file'}, "
            f"expected a run of all that {name} learns from: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; add what is missing, or name the "
            f"languages that are there in {name}.languages"
        )


def runs_of(task: Task, name: str) -> Runs:
    """The runs that teach a ranker; its teacher is no ranker."""
    ranker = task.config.ranking.trainings[name]
    assert ranker.teacher is not None
    return Runs(task_of(task, ranker), ranker, ranker.teacher, role="teacher")


def run_inputs(task: Task, name: str) -> list[Step | Files]:
    """The steps or files of the runs that teach; none where a ranker or nobody does."""
    known = task.config.ranking.trainings
    teacher = known[name].teacher
    if teacher is None or teacher in known:
        return []
    return runs_of(task, name).inputs()


# ---- Scores


def scores(
    task: Task, name: str, steps: Any, data: TrainingData, text_of: PairText
) -> "list[numpy.ndarray]":
    """The teacher's score of every training pair, times ``teacher_scale``.

    Float32 by row, an array a draw; each pair is scored once however many draws have it. Rows that
    the ranker does not learn from are NaN.
    """
    ranker = task.config.ranking.trainings[name]
    assert ranker.teacher is not None
    distinct = DistinctPairs(data)
    if ranker.teacher in task.config.ranking.trainings:
        trained = steps[TrainedRanker(ranker.teacher).step_name]
        values = ranker_scores(task, name, trained, distinct, text_of)
    else:
        found = scores_in_runs(runs_of(task, name), name, distinct)
        say(f"  {ranker.teacher} teaches {name} by its runs: {found}")
        values = found.scores
    return distinct.by_row(values * ranker.teacher_scale)


def ranker_scores(
    task: Task, name: str, trained: Step, distinct: DistinctPairs, text_of: PairText
) -> "numpy.ndarray":
    """A ranker's logits of the pairs, scored before the training begins."""
    import numpy as np

    teacher = task.config.ranking.trainings[name].teacher
    assert teacher is not None
    scorer = load(task, teacher, trained)
    store = scores_of(task, trained, scorer)

    def texts(part: Any) -> tuple[list[str], list[str]]:
        return apart(text_of(passage.pair) for _, passage in part)

    logits = np.empty(len(distinct), np.float32)
    for language, span in distinct.by_language():
        pairs: Any = TaughtPairs(distinct, span)
        what = f"{teacher} teaches {name}, {language}"
        logits[span.start : span.stop] = score_pairs(scorer, store, pairs, texts, what)
    return logits


class TaughtPassage(NamedTuple):
    """The passage of a pair to score; messages name it by its docid."""

    pair: TrainingPair

    def __str__(self) -> str:
        return self.pair.docid


Taught = tuple[str, TaughtPassage]
"""(query id, passage), as ``score_pairs`` wants pairs to be."""


class TaughtPairs(Sequence[Taught]):
    """Some distinct pairs, made when they are looked at."""

    def __init__(self, distinct: DistinctPairs, span: range):
        self.distinct = distinct
        self.span = span

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
