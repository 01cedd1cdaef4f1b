"""Where it is lost: what a split's runs show beyond their averages. Computed with its judgments, for the report alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.evaluate import evaluate, means
from core.records import Qrels, Run
from core.runs import append_below, ranked
from core.task import Task
from ranking import rank

RECALL_AT = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
DEPTHS = (0, 5, 10, 20, 30, 50, 100, 200)
FATES = ("never retrieved", "below the candidates", "ranked below 10", "in the ten", "first")
WORST = 3  # queries shown a language


@dataclass(frozen=True)
class Shown:
    """A passage in a worst query's story: its rank in every system (None: not there), and which systems put it above the right one."""

    docid: str
    title: str
    text: str
    ranks: dict[str, int | None]
    above: list[str]


@dataclass(frozen=True)
class Worst:
    qid: str
    text: str
    figures: dict[str, float]  # system -> nDCG@10
    right: Shown | None
    wrong: list[Shown]


@dataclass(frozen=True)
class Look:
    """One language of the report's split."""

    recall: dict[str, dict[int, float]]  # source or hybrid -> k -> recall
    depth: dict[str, dict[int, float]]  # ranker -> how many candidates it reranks -> nDCG@10
    fates: dict[str, float]  # share of the relevant passages
    scores: dict[
        str, tuple[list[float], list[float]]
    ]  # ranker -> scores of relevant candidates, of the others
    worst: list[Worst]


Looks = dict[str, Look]


def look(
    task: Task,
    language: str,
    split: str,
    runs: Mapping[str, Run],
    qrels: Qrels,
    values: Mapping[str, Mapping[str, float]],
) -> Look:
    c, depth = task.config, rank.depth(task)
    final, hybrid = c.submission.system, runs["hybrid"]
    ks = [k for k in RECALL_AT if k <= c.retrieval.depth]
    blocks = {q: [d for d, _ in ranked(scores)] for q, scores in hybrid.items()}
    rankers = {n: runs[n] for n in c.ranking.rankers}
    depths = sorted({d for d in DEPTHS if d < depth} | {depth})
    return Look(
        recall={s: recall_curve(runs[s], qrels, ks) for s in task.config.retrieval.systems},
        depth={
            n: {
                d: means(evaluate(reranked_to(blocks, run, d), qrels, ["nDCG@10"]))["nDCG@10"]
                for d in depths
            }
            for n, run in rankers.items()
        },
        fates=fates(hybrid, runs[final], qrels, c.candidates),
        scores={n: scores_of(run, blocks, qrels, depth) for n, run in rankers.items()},
        worst=worst(task, language, split, runs, qrels, values),
    )


def recall_curve(run: Run, qrels: Qrels, ks: Sequence[int]) -> dict[int, float]:
    found = means(evaluate(run, qrels, [f"R@{k}" for k in ks]))
    return {k: found[f"R@{k}"] for k in ks}


def reranked_to(blocks: Mapping[str, Sequence[str]], run: Run, depth: int) -> Run:
    """The hybrid's order with its first ``depth`` in the order of ``run``; depth 0 is the hybrid."""
    return {
        q: append_below({d: run[q][d] for d in docids[:depth] if d in run.get(q, {})}, docids)
        for q, docids in blocks.items()
    }


def places(scores: Mapping[str, float]) -> dict[str, int]:
    """docid -> rank, from 1."""
    return {d: n for n, (d, _) in enumerate(ranked(scores), 1)}


def fates(hybrid: Run, final: Run, qrels: Qrels, candidates: int) -> dict[str, float]:
    """What became of the relevant passages, as shares: the first of FATES that is true."""
    counts = dict.fromkeys(FATES, 0)
    for q, judged in qrels.items():
        retrieved, placed = places(hybrid.get(q, {})), places(final.get(q, {}))
        for d, gain in judged.items():
            if gain > 0:
                counts[fate(retrieved.get(d), placed.get(d), candidates)] += 1
    total = max(sum(counts.values()), 1)
    return {name: n / total for name, n in counts.items()}


def fate(retrieved: int | None, placed: int | None, candidates: int) -> str:
    if retrieved is None:
        return "never retrieved"
    if retrieved > candidates:
        return "below the candidates"
    return (
        "ranked below 10"
        if placed is None or placed > 10
        else "first"
        if placed == 1
        else "in the ten"
    )


def scores_of(
    run: Run, blocks: Mapping[str, Sequence[str]], qrels: Qrels, depth: int
) -> tuple[list[float], list[float]]:
    """A ranker's scores of the candidates that are judged relevant, and of all others."""
    right, other = [], []
    for q, docids in blocks.items():
        for d in docids[:depth]:
            if d in run.get(q, {}):
                (right if qrels.get(q, {}).get(d, 0) > 0 else other).append(run[q][d])
    return right, other


def worst(
    task: Task,
    language: str,
    split: str,
    runs: Mapping[str, Run],
    qrels: Qrels,
    values: Mapping[str, Mapping[str, float]],
) -> list[Worst]:
    """The queries with the lowest nDCG@10 of the submitted system; of equal ones those that another system answers best."""
    final, texts = (
        task.config.submission.system,
        {q.qid: q.text for q in task.queries(language, split)},
    )
    answerable = [q for q, judged in qrels.items() if any(gain > 0 for gain in judged.values())]
    order = sorted(
        answerable, key=lambda q: (values[final][q], -max(v[q] for v in values.values()), q)
    )
    return [
        story(
            task,
            language,
            q,
            texts.get(q, ""),
            runs,
            qrels[q],
            {s: v[q] for s, v in values.items()},
            final,
        )
        for q in order[:WORST]
        if values[final][q] < 1.0
    ]


def story(
    task: Task,
    language: str,
    qid: str,
    text: str,
    runs: Mapping[str, Run],
    judged: Mapping[str, int],
    values: dict[str, float],
    final: str,
) -> Worst:
    """The right passage that the submitted system places best, and the three passages at its top that are not relevant."""
    placed = {s: places(run.get(qid, {})) for s, run in runs.items()}
    relevant = sorted(
        (d for d, gain in judged.items() if gain > 0),
        key=lambda d: (placed[final].get(d, 10**9), d),
    )
    right = relevant[0]
    wrong = [
        d
        for d in placed[final]
        if judged.get(d, 0) == 0 and placed[final][d] < placed[final].get(right, 10**9)
    ][:3]
    store = task.passages(language)
    rows = store.rows([right, *wrong], strict=False)

    def shown(docid: str, row: int) -> Shown:
        document = store.document(int(row)) if row >= 0 else None
        ranks = {s: found.get(docid) for s, found in placed.items()}
        above = [
            s
            for s, found in placed.items()
            if docid != right and found.get(docid, 10**9) < found.get(right, 10**9)
        ]
        return Shown(
            docid,
            document.title if document else "",
            document.text if document else "(not in the corpus)",
            ranks,
            above,
        )

    return Worst(
        qid, text, values, shown(right, rows[0]), [shown(d, row) for d, row in zip(wrong, rows[1:])]
    )
