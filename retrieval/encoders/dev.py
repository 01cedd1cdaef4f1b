"""What an encoder's training is measured by: dev queries against a sample of their passages."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from core.console import say
from core.distributed import generator
from core.encoders import EncoderDev
from core.evaluate import evaluate, means
from core.files import finished_file
from core.records import Qrels, Query, Run
from core.task import Task

if TYPE_CHECKING:
    from retrieval.encoders.encoding import Encode
    from retrieval.encoders.texts import Tokens

METRICS = {"MRR@100": "RR@100", "Recall@100": "R@100"}
"""By the papers' names: what ir-measures calls them."""

DEPTH = 100
FILE = "dev.jsonl"
CONSTANT = 1e-6
"""Standard deviation of a query's scores below which nothing is ranked."""


class Sample(NamedTuple):
    """Of one language: some dev queries, some passages, and the judgments between them."""

    queries: list[Query]
    rows: np.ndarray  # int64: the passages' rows in the language's store
    docids: list[str]
    qrels: Qrels


class Values(NamedTuple):
    """Metric -> value: a mean over languages, and of each; a warning where scores are all one."""

    mean: dict[str, float]
    languages: dict[str, dict[str, float]]
    warning: str | None = None


def sample(task: Task, language: str, settings: EncoderDev, seed: int) -> Sample:
    """Judged dev queries, and ``settings.passages`` passages: those judged for them come first.

    It is fixed by seed and language.
    """
    dev = task.config.splits.dev
    qrels = task.judgments(language, dev)
    judged = [query for query in task.queries(language, dev) if query.qid in qrels]
    random = generator(seed, 0, "dev", language)
    chosen = random.permutation(len(judged))[: settings.queries]
    queries = [judged[place] for place in sorted(chosen.tolist())]

    store = task.passages(language)
    docids: dict[str, None] = {}
    for query in queries:
        docids |= dict.fromkeys(qrels[query.qid])
    of_judged = store.rows(list(docids), strict=False)
    of_judged = np.unique(of_judged[of_judged >= 0])
    drawn = random.choice(len(store), min(len(store), settings.passages), replace=False)
    others = drawn[~np.isin(drawn, of_judged)][: max(0, settings.passages - len(of_judged))]
    rows = np.sort(np.concatenate([of_judged, others]))
    names = [store.docid(row) for row in rows.tolist()]
    return Sample(queries, rows, names, {query.qid: qrels[query.qid] for query in queries})


class Dev:
    """The samples of some languages, tokenised once."""

    def __init__(
        self,
        task: Task,
        languages: Sequence[str],
        settings: EncoderDev,
        seed: int,
        tokens: "Tokens",
    ):
        self.samples: dict[str, Sample] = {}
        self.queries: dict[str, list[list[int]]] = {}  # as token ids
        self.passages: dict[str, list[list[int]]] = {}
        for language in languages:
            own = sample(task, language, settings, seed)
            store = task.passages(language)
            texts = [store.text(docid) for docid in own.docids]
            self.samples[language] = own
            self.queries[language] = tokens.rows([query.text for query in own.queries], "query")
            self.passages[language] = tokens.rows(texts, "passage")

    def measure(self, encode: "Encode") -> Values:
        """Of the model as it is now; all processes call it."""
        languages = {}
        spreads = []
        for language, own in self.samples.items():
            queries = encode.rows(self.queries[language], "query")
            passages = encode.rows(self.passages[language], "passage")
            scores = queries @ passages.T
            spreads.append(float(scores.std(1).mean()))
            languages[language] = measured(best(own, scores), own.qrels)
        warning = None
        if fmean(spreads) < CONSTANT:
            warning = (
                "all passages have one score for a query: the encoder has collapsed; lower "
                "learning_rate, lengthen warmup, or raise temperature"
            )
        mean = {name: fmean(values[name] for values in languages.values()) for name in METRICS}
        return Values(mean, languages, warning)

    def note(self, folder: Path, step: int, values: Values) -> None:
        """A line of the dev file; those of later steps, which a stopped run took, go."""
        lines = [line for number, line in read(folder).items() if number < step]
        lines.append({"step": step, **values.mean, "languages": values.languages})
        with finished_file(folder / FILE) as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def tell(self, name: str, state: dict) -> None:
        """The closing line, and what to try where training did not help."""
        base, tuned = state["base"], state["best"]
        say(
            f"  {name}, dev MRR@100:  base {base:.4f}   tuned {tuned:.4f} "
            f"(step {state['best_step']})"
        )
        if tuned <= base:
            say(
                f"  note: {name} is no better than before its training: more steps, another "
                "learning_rate or temperature, harder negatives, or a larger batch"
            )


def read(folder: Path) -> dict[int, dict]:
    """Step -> what was measured then; empty where there were no dev queries."""
    path = folder / FILE
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {line["step"]: line for line in lines}


def best(sample: Sample, scores: np.ndarray) -> Run:
    """The best DEPTH of [queries, passages] scores."""
    depth = min(DEPTH, scores.shape[1])
    places = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    run: Run = {}
    for query, row, own in zip(sample.queries, places.tolist(), scores, strict=True):
        run[query.qid] = {sample.docids[place]: float(own[place]) for place in row}
    return run


def measured(run: Run, qrels: Qrels) -> dict[str, float]:
    """The metrics by the papers' names, means over queries."""
    values = means(evaluate(run, qrels, list(METRICS.values())))
    return {name: values[metric] for name, metric in METRICS.items()}


def of_run(run: Run, own: Sample) -> dict[str, float]:
    """What a run comes to on a sample: its ranking of the sample's passages alone."""
    inside = set(own.docids)
    within: Run = {}
    for query in own.queries:
        scores = run.get(query.qid, {})
        within[query.qid] = {docid: score for docid, score in scores.items() if docid in inside}
    return measured(within, own.qrels)
