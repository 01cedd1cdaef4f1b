"""Who teaches a ranker, and the teacher's score of every training pair.

A teacher is another ranker, which scores the pairs; a system of the first stage, whose runs are
there; or a folder of runs, LANG-SPLIT.trec.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from core.artefacts import RankedRun, TrainedRanker
from core.config import did_you_mean
from core.console import say
from core.errors import InputError
from core.records import Ranking, TrainingPair
from core.runs import read_rankings
from core.settings import Ranker
from core.steps import Files, Step
from core.task import Task
from ranking.data import TrainingData
from ranking.pairs import apart
from ranking.rankers import load, scores_of, task_of
from ranking.rerank import score_pairs

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


def check_folder(task: Task, name: str) -> None:
    """Raises InputError for a folder that lacks a run of a language that the ranker learns from."""
    ranker = task.config.ranking.trainings[name]
    assert ranker.teacher is not None
    folder = Path(ranker.teacher)
    wanted = [file_of(folder, *of) for of in taught(task_of(task, ranker), ranker)]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        found = sorted(path.name for path in folder.glob("*.trec"))
        raise InputError(
            f"ranking: {name}: teacher: {folder}: found {', '.join(found) or 'no .trec file'}, "
            f"expected a run of all that {name} learns from: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; add what is missing, or name the "
            f"languages that are there in {name}.languages"
        )


def taught(source: Task, ranker: Ranker) -> list[tuple[str, str]]:
    """(language, split) of the queries that a ranker's pairs may be of; train comes first."""
    recipe = source.config.data_aug[ranker.recipe]
    found = []
    for split in (source.config.splits.train, *recipe.targets):
        for language, _ in source.pairs(split):
            if not ranker.languages or language in ranker.languages:
                found.append((language, split))
    return found


def file_of(folder: Path, language: str, split: str) -> Path:
    """A run of a folder."""
    return folder / f"{language}-{split}.trec"


def run_inputs(task: Task, name: str) -> list[Step | Files]:
    """The steps or files of the runs that teach; none where a ranker or nobody does."""
    ranker = task.config.ranking.trainings[name]
    if ranker.teacher is None or ranker.teacher in task.config.ranking.trainings:
        return []
    source = task_of(task, ranker)
    inputs: list[Step | Files] = []
    for language, split in taught(source, ranker):
        if ranker.teacher in source.config.retrieval.systems:
            inputs.append(source.step(RankedRun(ranker.teacher, language, split)))
        else:
            path = file_of(Path(ranker.teacher), language, split)
            inputs.append(task.file_input(f"teacher/{language}-{split}", path))
    return inputs


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
        values = run_scores(task, name, distinct)
    return distinct.by_row(values * ranker.teacher_scale)


def ranker_scores(
    task: Task, name: str, trained: Step, distinct: "DistinctPairs", text_of: PairText
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


def run_scores(task: Task, name: str, distinct: "DistinctPairs") -> "numpy.ndarray":
    """The scores of the pairs in the teacher's runs, which are read once, query by query.

    A passage that the run of its query lacks has the lowest score there; runs lack all of another
    language than the query. How many there are is said. Raises InputError where the runs of a
    language lack a query of the pairs, or all passages of the language.
    """
    import numpy as np

    ranker = task.config.ranking.trainings[name]
    source = task_of(task, ranker)
    values = np.empty(len(distinct), np.float32)
    found = 0
    for language, span in distinct.by_language():
        queries = distinct.by_query(span)
        of_language = 0
        for qid, run in rankings(source, ranker, language):
            for part in queries.pop(qid, ()):
                of_language += put_scores(values, distinct, part, run)
        refuse_unanswered(ranker, language, queries)
        if not of_language and not distinct.is_foreign(span):
            raise InputError(
                f"teacher {ranker.teacher}: the runs of {language} have none of the passages that "
                f"{name} learns from; are they runs of this collection?"
            )
        found += of_language
    lacking = len(distinct) - found
    share = lacking / max(1, len(distinct))
    say(
        f"  {ranker.teacher} teaches {name} by its runs: {len(distinct)} pairs; {lacking} of them "
        f"({share:.1%}) are not in the runs and have their query's lowest score there"
    )
    return values


def put_scores(
    values: "numpy.ndarray", distinct: "DistinctPairs", part: range, run: dict[str, float]
) -> int:
    """Puts the scores of a query's pairs into their places; how many of them the run has."""
    lowest = min(run.values())
    if distinct.is_foreign(part):
        values[part.start : part.stop] = lowest
        return 0
    docids = distinct.docids(part)
    values[part.start : part.stop] = [run.get(docid, lowest) for docid in docids]
    return sum(docid in run for docid in docids)


def rankings(source: Task, ranker: Ranker, language: str) -> Iterator[Ranking]:
    """The teacher's rankings of a language's queries, those of train first.

    Raises InputError for a run with queries that the split has not.
    """
    assert ranker.teacher is not None
    for of, split in taught(source, ranker):
        if of != language:
            continue
        if ranker.teacher in source.config.retrieval.systems:
            path = source.step(RankedRun(ranker.teacher, language, split)).path / "run.trec"
        else:
            path = file_of(Path(ranker.teacher), language, split)
        topics = {query.qid for query in source.collection.queries(language, split)}
        for qid, run in read_rankings(path):
            if qid not in topics:
                raise InputError(
                    f"{path}: query {qid} is no topic of {language}-{split}; "
                    "is it a run of this collection, language and split?"
                )
            yield qid, run


def refuse_unanswered(ranker: Ranker, language: str, queries: dict[str, list[range]]) -> None:
    """Raises InputError where there are queries of the pairs that the teacher's runs lack."""
    if queries:
        raise InputError(
            f"teacher {ranker.teacher}: the runs of {language} lack {len(queries)} queries of the "
            f"training pairs, first {', '.join(list(queries)[:5])}; expected a ranking of each: "
            "add them, or let a teacher that answers all, such as hybrid, teach"
        )


class TaughtPassage(NamedTuple):
    """The passage of a pair to score; messages name it by its docid."""

    pair: TrainingPair

    def __str__(self) -> str:
        return self.pair.docid


SORTED_BY = ("docid", "qid", "passage_language", "language")
"""Columns that tell pairs apart; the last one decides first."""

Taught = tuple[str, TaughtPassage]
"""(query id, passage), as ``score_pairs`` wants pairs to be."""


class DistinctPairs:
    """The pairs of all draws, each once: by language, passage's language, query and passage.

    ``draw`` and ``row`` say where each pair in use stands. Of these pairs, ``first`` has one place
    for each distinct pair, and ``number`` has, for each pair, which of the distinct ones it is.
    """

    def __init__(self, data: TrainingData):
        import numpy as np

        self.draws = data.draws
        self.rows = data.rows
        self.kept: dict[str, numpy.ndarray] = {}  # codes of the distinct pairs, by column
        counts = [len(rows) for rows in data.rows]
        self.draw = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.row = np.concatenate(data.rows)
        places = [self.places(column) for column in SORTED_BY]
        order = np.lexsort(places)
        is_first = np.zeros(len(order), bool)  # in that order, whether another than the one before
        is_first[:1] = True
        for place in places:
            in_order = place[order]
            is_first[1:] |= in_order[1:] != in_order[:-1]
        self.first = order[is_first]
        self.number = np.empty(len(order), np.int64)
        self.number[order] = np.cumsum(is_first) - 1

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
        codes = self.codes("language")
        names = self.draws[0].dictionary("language")
        spans = []
        for span in equal_spans(codes):
            spans.append((names[int(codes[span.start])].as_py(), span))
        return spans

    def by_query(self, span: range) -> dict[str, list[range]]:
        """The queries of a language's pairs; each has a range for each language of passages."""
        codes = self.codes("qid")[span.start : span.stop]
        languages = self.codes("passage_language")[span.start : span.stop]
        names = self.draws[0].dictionary("qid")
        queries: dict[str, list[range]] = {}
        for part in equal_spans(codes, languages):
            qid = names[int(codes[part.start])].as_py()
            numbers = range(span.start + part.start, span.start + part.stop)
            queries.setdefault(qid, []).append(numbers)
        return queries

    def is_foreign(self, part: range) -> bool:
        """Whether the passages of some pairs are of another language than their queries.

        The first pair tells: of a query's, or a language's, those of its own language come first.
        """
        first = int(self.codes("passage_language")[part.start])
        return self.draws[0].dictionary("passage_language")[first].as_py() != ""

    def docids(self, part: range) -> list[str]:
        """Of some distinct pairs."""
        import pyarrow

        codes = pyarrow.array(self.codes("docid")[part.start : part.stop])
        return self.draws[0].dictionary("docid").take(codes).to_pylist()

    def codes(self, column: str) -> "numpy.ndarray":
        """A string column's codes of the distinct pairs: int32; kept, as it is asked for often."""
        import numpy as np

        if column not in self.kept:
            self.kept[column] = np.concatenate(self.columns(column))[self.first]
        return self.kept[column]

    def columns(self, column: str) -> "list[numpy.ndarray]":
        """A string column's codes of the rows in use, an array a draw."""
        arrays = []
        for draw, rows in zip(self.draws, self.rows, strict=True):
            arrays.append(draw.codes(column)[rows])
        return arrays

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


def equal_spans(*columns: "numpy.ndarray") -> list[range]:
    """Where the rows of columns, which lie together by their values, have the same ones."""
    import numpy as np

    is_first = np.zeros(len(columns[0]), bool)
    is_first[:1] = True
    for column in columns:
        is_first[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(is_first).tolist()
    ends = [*starts[1:], len(is_first)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


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
