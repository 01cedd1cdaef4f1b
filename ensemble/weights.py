"""Weights of an ensemble's members, from judged queries. RULES is a table of functions from a Problem to a weight a member."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.evaluate import Relevant, ndcg, relevant
from core.fusion import FUSIONS, Aligned, align, normalised, shrunk
from core.records import Run
from core.settings import Ensemble

Key = tuple[str, str]  # (language, query id)
Table = Mapping[str, Mapping[str, float]]
GRID = np.linspace(0.0, 1.0, 21)  # of a coordinate's weight
ROUNDS = 30  # of greedy selection


def aligned_members(
    runs: Mapping[str, Mapping[str, Run]], queries: Sequence[Key] | None = None
) -> Aligned:
    """``runs``: member -> language -> run; queries become (language, query id)."""
    return align(
        {
            name: {(la, q): scores for la, run in by_language.items() for q, scores in run.items()}
            for name, by_language in runs.items()
        },
        queries,
    )


@dataclass(frozen=True)
class Judged:
    """Members' raw scores on judged queries."""

    members: Aligned
    qrels: Mapping[Hashable, Mapping[str, int]]

    @cached_property
    def relevant(self) -> Relevant:
        return relevant(self.members, self.qrels)

    @cached_property
    def languages(self) -> np.ndarray:
        return np.array([la for la, _ in self.members.queries])

    @cached_property
    def gains(self) -> np.ndarray:
        """[query, passage] relevance; 0 where not judged."""
        found = np.zeros(self.members.scores.shape[1:])
        found[self.relevant.query, self.relevant.place] = self.relevant.gain
        return found

    def part(self, rows: np.ndarray) -> "Judged":
        """Some of the queries; ``rows``: a mask."""
        m, chosen = self.members, np.flatnonzero(rows)
        return Judged(
            Aligned(
                m.names,
                tuple(m.queries[i] for i in chosen),
                [m.docids[i] for i in chosen],
                m.scores[:, chosen],
            ),
            self.qrels,
        )

    def per_query(self, values: np.ndarray) -> np.ndarray:
        """nDCG@10 of fused values [query, passage]."""
        return ndcg(np.where(self.members.present, values, np.nan), self.relevant)

    def macro(self, per_query: np.ndarray) -> float:
        """Mean over languages of the mean over queries."""
        return float(
            np.mean(
                [per_query[self.languages == la].mean() for la in dict.fromkeys(self.languages)]
            )
        )


@dataclass(frozen=True)
class Problem:
    """What a rule sees: normalised scores, their worth alone and together."""

    judged: Judged
    scores: np.ndarray  # [member, query, passage], NaN where absent
    missing: str
    fusion: str

    def value(self, weights: Sequence[float]) -> float:
        """nDCG@10 of a fusion, mean over languages."""
        return self.judged.macro(
            self.judged.per_query(FUSIONS[self.fusion](self.scores, weights, self.missing))
        )

    @cached_property
    def alone(self) -> dict[str, float]:
        return {
            name: self.judged.macro(self.judged.per_query(scores))
            for name, scores in zip(self.judged.members.names, self.scores)
        }

    @cached_property
    def table(self) -> Table:
        return correlations(self.judged.members.names, self.scores)


def correlations(names: Sequence[str], scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean over queries of the Pearson correlation of two members' normalised scores, on the passages that both scored. A query
    with fewer than three such passages, or with constant scores, says nothing and is left out; no query left: 0."""
    table = {a: {b: 1.0 for b in names} for a in names}
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            found = query_correlations(scores[i], scores[j])
            table[a][b] = table[b][a] = (
                float(np.nanmean(found)) if np.isfinite(found).any() else 0.0
            )
    return table


def query_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each query; NaN where it is not defined."""
    shared = ~np.isnan(x) & ~np.isnan(y)
    n = np.maximum(shared.sum(1, keepdims=True), 1)
    x, y = (
        np.where(shared, values - np.where(shared, values, 0.0).sum(1, keepdims=True) / n, 0.0)
        for values in (x, y)
    )
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide(
        (x * y).sum(1),
        spread,
        out=np.full(len(x), np.nan),
        where=(shared.sum(1) >= 3) & (spread > 1e-12),
    )


def uniform(names: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(names, 1 / len(names))


def by_score(scores: Mapping[str, float]) -> dict[str, float]:
    """w_i = s_i / sum_j s_j, s: dev nDCG@10."""
    total = sum(scores.values())
    return {n: s / total for n, s in scores.items()} if total > 0 else uniform(list(scores))


def paper(scores: Mapping[str, float], table: Table) -> dict[str, float]:
    """The paper's rule (4.5): weights follow the scores, lowered for members whose predictions correlate with the others'.

        w_i = (s_i - min_j s_j) (1 - max(0, mean_{j != i} r_ij)),  scaled to sum 1

    s: dev nDCG@10; r: mean per-query correlation. The worst member has weight 0; members of equal scores get equal s-parts.
    """
    low, names = min(scores.values()), list(scores)
    spread = max(scores.values()) - low
    raw = {
        n: (scores[n] - low if spread > 0 else 1.0)
        * (1 - max(0.0, float(np.mean([table[n][m] for m in names if m != n] or [0.0]))))
        for n in names
    }
    total = sum(raw.values())
    return {n: value / total for n, value in raw.items()} if total > 0 else uniform(names)


def greedy(value: Callable[[Sequence[float]], float], count: int) -> np.ndarray:
    """Forward selection with replacement (Caruana et al. 2004): each round adds the member that helps most; the best round's counts."""
    chosen, best, best_value = np.zeros(count), np.zeros(count), -1.0
    for _ in range(ROUNDS):
        values = [value(chosen + one) for one in np.eye(count)]
        chosen = chosen + np.eye(count)[int(np.argmax(values))]
        if max(values) > best_value + 1e-12:
            best, best_value = chosen, max(values)
    return best / best.sum()


def coordinate(value: Callable[[Sequence[float]], float], count: int) -> np.ndarray:
    """Coordinate ascent (Metzler and Croft 2007) from equal weights: one member's weight at a time takes the best of a grid in [0, 1],
    the others keep their proportions; until no coordinate gains. Of equal values the one nearest to the weight in place."""
    weights = np.full(count, 1 / count)
    best, gained = value(weights), count > 1
    while gained:
        gained = False
        for i in range(count):
            rest = np.delete(weights, i)
            rest = rest / rest.sum() if rest.sum() > 0 else np.full(count - 1, 1 / (count - 1))
            tried = [
                np.insert(rest * (1 - w), i, w)
                for w in sorted(GRID, key=lambda w: abs(w - weights[i]))
            ]
            values = [value(t) for t in tried]
            if max(values) > best + 1e-9:
                weights, best, gained = tried[int(np.argmax(values))], max(values), True
    return weights


def named(problem: Problem, weights: np.ndarray) -> dict[str, float]:
    return dict(zip(problem.judged.members.names, weights.tolist()))


RULES: dict[str, Callable[[Problem], dict[str, float]]] = {
    "uniform": lambda p: uniform(p.judged.members.names),
    "score": lambda p: by_score(p.alone),
    "paper": lambda p: paper(p.alone, p.table),
    "greedy": lambda p: named(p, greedy(p.value, len(p.scores))),
    "coordinate": lambda p: named(p, coordinate(p.value, len(p.scores))),
}


def calibration(scores: np.ndarray, gains: np.ndarray) -> list[float]:
    """(slope, shift) that make ``sigmoid(slope s + shift)`` the probability of relevance of a member's raw scores (Platt 1999): the
    likeliest, with slope >= 0. Scores of one value, or judgments of one kind, leave (1, 0)."""
    from scipy.optimize import minimize

    mask = ~np.isnan(scores)
    s, y = scores[mask], (gains > 0)[mask].astype(float)
    if not len(s) or s.std() == 0 or y.min() == y.max():
        return [1.0, 0.0]
    z = (s - s.mean()) / s.std()

    def loss(p):
        logits = p[0] * z + p[1]
        wrong = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - y
        return np.mean(np.logaddexp(0, logits) - y * logits), np.array(
            [np.mean(wrong * z), np.mean(wrong)]
        )

    slope, shift = minimize(
        loss, [1.0, 0.0], jac=True, bounds=[(0.0, 50.0), (-50.0, 50.0)], method="L-BFGS-B"
    ).x
    return [float(slope / s.std()), float(shift - slope * s.mean() / s.std())]


def prepared(scores: np.ndarray, names: Sequence[str], chosen: Mapping, s: Ensemble) -> np.ndarray:
    """Calibrated if that was fitted, then normalised."""
    if chosen.get("calibration"):
        line = np.array([chosen["calibration"][n] for n in names])[:, :, None, None]
        scores = line[:, 0] * scores + line[:, 1]
    return normalised(scores, s.normalise)


def fit(judged: Judged, s: Ensemble, rule: str | None = None, shrink: float | None = None) -> dict:
    """``weights``, and by the settings ``calibration`` and ``by_language``: what ``apply`` needs, fit for JSON."""
    rule, names = rule or s.weights, judged.members.names
    chosen: dict = {"rule": rule}
    if s.normalise == "sigmoid":
        chosen["calibration"] = {
            n: calibration(scores, judged.gains) for n, scores in zip(names, judged.members.scores)
        }
    problem = Problem(
        judged, prepared(judged.members.scores, names, chosen, s), s.missing, s.fusion
    )
    chosen |= {
        "weights": RULES[rule](problem),
        "dev nDCG@10": problem.alone,
        "correlations": problem.table,
    }
    if shrink := shrink or s.shrink:
        chosen["by_language"] = by_language(problem, chosen["weights"], rule, shrink)
    return chosen


def by_language(
    problem: Problem, overall: Mapping[str, float], rule: str, shrink: float
) -> dict[str, dict[str, float]]:
    """The rule's choice on the queries of each language alone, shrunk to the global weights."""
    found = {}
    for la in dict.fromkeys(problem.judged.languages.tolist()):
        rows = problem.judged.languages == la
        own = RULES[rule](
            Problem(
                problem.judged.part(rows), problem.scores[:, rows], problem.missing, problem.fusion
            )
        )
        found[la] = shrunk(own, overall, int(rows.sum()), shrink)
    return found


def apply(members: Aligned, chosen: Mapping, s: Ensemble) -> np.ndarray:
    """Fused values [query, passage]; a language without weights of its own has the global ones."""
    scores = prepared(members.scores, members.names, chosen, s)
    values = np.empty(scores.shape[1:])
    languages = np.array([la for la, _ in members.queries])
    for la in dict.fromkeys(languages.tolist()):
        rows, weights = languages == la, chosen.get("by_language", {}).get(la, chosen["weights"])
        values[rows] = FUSIONS[s.fusion](
            scores[:, rows], [weights[n] for n in members.names], s.missing
        )
    return values


def matrix_rows(table: Table) -> Sequence[Sequence[str]]:
    return [["", *table], *([a, *(f"{r:.3f}" for r in row.values())] for a, row in table.items())]
