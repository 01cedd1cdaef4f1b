"""Weights of an ensemble's members, learnt from judged queries.

RULES is the table of ways to choose them: functions from a ``Problem`` to a weight for each member.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from core.evaluate import Relevant, ndcg, relevant
from core.fusion import FUSIONS, Aligned, align, normalised, shrunk
from core.records import Run
from core.settings import Ensemble

Key = tuple[str, str]  # (language, query id)
Table = Mapping[str, Mapping[str, float]]  # member -> other member -> correlation
Value = Callable[[np.ndarray], float]  # of a weight for each member: what they are worth together
GRID = np.linspace(0.0, 1.0, 21)  # that coordinate ascent tries for one member's weight
ROUNDS = 30  # of greedy selection
HALVED_BY = 0.02  # of dev nDCG@10 behind the best member: half its weight by the paper's rule


def aligned_members(
    runs: Mapping[str, Mapping[str, Run]], queries: Sequence[Key] | None = None
) -> Aligned:
    """``runs``: member -> language -> run; queries become (language, query id)."""
    keyed: dict[str, dict] = {}
    for name, by_language in runs.items():
        keyed[name] = {}
        for language, run in by_language.items():
            for qid, scores in run.items():
                keyed[name][language, qid] = scores
    return align(keyed, queries)


def keys_of(members: Aligned) -> tuple[Key, ...]:
    """The queries of ``aligned_members``."""
    return cast(tuple[Key, ...], members.queries)


def languages_of(members: Aligned) -> np.ndarray:
    """[query] language of ``aligned_members``."""
    return np.array([language for language, _ in keys_of(members)])


@dataclass(frozen=True)
class Judged:
    """Members' raw scores on judged queries."""

    members: Aligned
    qrels: Mapping[Key, Mapping[str, int]]

    @cached_property
    def relevant(self) -> Relevant:
        """The relevant passages among the members' candidates."""
        return relevant(self.members, cast(Mapping[Hashable, Mapping[str, int]], self.qrels))

    @cached_property
    def languages(self) -> np.ndarray:
        """[query] language."""
        return languages_of(self.members)

    @cached_property
    def gains(self) -> np.ndarray:
        """[query, passage] relevance; 0 where not judged."""
        gains = np.zeros(self.members.scores.shape[1:])
        gains[self.relevant.query, self.relevant.place] = self.relevant.gain
        return gains

    def part(self, rows: np.ndarray) -> "Judged":
        """Some of the queries; ``rows``: a mask [query]."""
        chosen = np.flatnonzero(rows)
        members = Aligned(
            self.members.names,
            tuple(self.members.queries[i] for i in chosen),
            [self.members.docids[i] for i in chosen],
            self.members.scores[:, chosen],
        )
        return Judged(members, self.qrels)

    def per_query(self, values: np.ndarray) -> np.ndarray:
        """[query] nDCG@10 of fused ``values`` [query, passage]."""
        return ndcg(np.where(self.members.present, values, np.nan), self.relevant)

    def macro(self, per_query: np.ndarray) -> float:
        """Mean over languages of the mean over queries."""
        means = []
        for language in dict.fromkeys(self.languages):
            means.append(per_query[self.languages == language].mean())
        return float(np.mean(means))


@dataclass(frozen=True)
class Problem:
    """What a rule sees: normalised scores, and what members are worth alone and together."""

    judged: Judged
    scores: np.ndarray  # [member, query, passage], NaN where absent
    missing: str
    fusion: str

    def value(self, weights: np.ndarray) -> float:
        """nDCG@10 of the fusion with these weights, mean over languages."""
        fused = FUSIONS[self.fusion](self.scores, weights.tolist(), self.missing)
        return self.judged.macro(self.judged.per_query(fused))

    @cached_property
    def alone(self) -> dict[str, float]:
        """Member -> its own nDCG@10, mean over languages."""
        worth = {}
        for name, scores in zip(self.judged.members.names, self.scores, strict=True):
            worth[name] = self.judged.macro(self.judged.per_query(scores))
        return worth

    @cached_property
    def table(self) -> Table:
        """The correlations of the members."""
        return correlations(self.judged.members.names, self.scores)


def correlations(names: Sequence[str], scores: np.ndarray) -> dict[str, dict[str, float]]:
    """How alike the members' normalised ``scores`` [member, query, passage] are.

    The mean over queries of Pearson's r of two members on the passages that both scored. A query
    where it is not defined is left out; 0 where none is left.
    """
    table = {name: dict.fromkeys(names, 1.0) for name in names}
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            by_query = query_correlations(scores[i], scores[j])
            defined = np.isfinite(by_query).any()
            mean = float(np.nanmean(by_query)) if defined else 0.0
            table[first][second] = table[second][first] = mean
    return table


def query_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[query] Pearson's r of two members' scores [query, passage], on the passages of both.

    NaN with fewer than three such passages, or where a member's scores of them are all equal.
    """
    shared = ~np.isnan(x) & ~np.isnan(y)
    counts = shared.sum(1, keepdims=True)

    def centred(values: np.ndarray) -> np.ndarray:
        means = np.where(shared, values, 0.0).sum(1, keepdims=True) / np.maximum(counts, 1)
        return np.where(shared, values - means, 0.0)

    x, y = centred(x), centred(y)
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    defined = (counts[:, 0] >= 3) & (spread > 1e-12)
    undefined = np.full(len(x), np.nan)
    return np.divide((x * y).sum(1), spread, out=undefined, where=defined)


def uniform(names: Sequence[str]) -> dict[str, float]:
    """All the same."""
    return dict.fromkeys(names, 1 / len(names))


def scaled(raw: Mapping[str, float]) -> dict[str, float]:
    """Divided by their sum; uniform where that is 0."""
    total = sum(raw.values())
    if total <= 0:
        return uniform(list(raw))
    return {name: value / total for name, value in raw.items()}


def by_score(scores: Mapping[str, float]) -> dict[str, float]:
    """w_i = s_i / sum_j s_j, with s the dev nDCG@10."""
    return scaled(scores)


def paper(scores: Mapping[str, float], table: Table) -> dict[str, float]:
    """The paper's rule (4.5): by score above all, less for members that resemble the others.

        w_i = a_i * c_i, scaled to sum 1
        a_i = 1 / (1 + (s_max - s_i) / 0.02)
        c_i = 1 - 1/2 * max(0, mean_{j != i} r_ij)

    s (``scores``): dev nDCG@10; r (``table``): mean per-query correlation.

    The paper has words and no formula; each part is one of its sentences.

    - "Primarily determined by their scores": a member that is .02 of nDCG@10 behind the best
      counts half, one that is .04 behind a third, .18 a tenth. Weights in proportion to the scores
      would be all but equal for its .802, .792 and .785. On some hundred dev queries the standard
      error of a difference is about .006: what may be chance costs little, what is certain costs
      half. The distance to the worst plays no part, so that another bad member leaves a of the
      others as it is.
    - "We decrease the weights of models with high correlation coefficients": c falls from 1, for
      a member that resembles no other, to 1/2. As it is never below that, a member that is .02 or
      more behind never outweighs the best.
    - mDeBERTa, the worst, "still contributes positively": no factor is 0.
    """
    best = max(scores.values())
    raw = {}
    for name, score in scores.items():
        of_score = 1.0 / (1.0 + (best - score) / HALVED_BY)
        others = [table[name][other] for other in scores if other != name]
        resemblance = max(0.0, float(np.mean(others))) if others else 0.0
        raw[name] = of_score * (1.0 - 0.5 * resemblance)
    return scaled(raw)


def greedy(value: Value, count: int) -> np.ndarray:
    """Forward selection with replacement (Caruana et al. 2004).

    Each round adds the member that helps most; the weights are the counts of the best round.
    """
    members = np.eye(count)
    chosen = np.zeros(count)  # how often each member was
    best = chosen
    best_value = -1.0
    for _ in range(ROUNDS):
        values = [value(chosen + member) for member in members]
        chosen = chosen + members[int(np.argmax(values))]
        if max(values) > best_value + 1e-12:
            best = chosen
            best_value = max(values)
    return best / best.sum()


def coordinate(value: Value, count: int) -> np.ndarray:
    """Coordinate ascent (Metzler and Croft 2007) from equal weights, until no member gains.

    One member's weight at a time takes the best of a grid in [0, 1] while the others keep their
    proportions; of equal values the one nearest to the weight in place.
    """
    weights = np.full(count, 1 / count)
    best_value = value(weights)
    gained = count > 1  # one member alone has nothing to gain
    while gained:
        gained = False
        for i in range(count):
            tried = along(weights, i)
            values = [value(candidate) for candidate in tried]
            if max(values) > best_value + 1e-9:
                weights = tried[int(np.argmax(values))]
                best_value = max(values)
                gained = True
    return weights


def along(weights: np.ndarray, i: int) -> list[np.ndarray]:
    """``weights`` with member i at each value of GRID, those nearest to its own value first."""
    rest = np.delete(weights, i)
    if rest.sum() > 0:
        rest = rest / rest.sum()
    else:
        rest = np.full(len(rest), 1 / len(rest))
    nearest_first = sorted(GRID, key=lambda weight: abs(weight - weights[i]))
    return [np.insert(rest * (1 - weight), i, weight) for weight in nearest_first]


def named(problem: Problem, weights: np.ndarray) -> dict[str, float]:
    """Member -> weight."""
    return dict(zip(problem.judged.members.names, weights.tolist(), strict=True))


RULES: dict[str, Callable[[Problem], dict[str, float]]] = {
    "uniform": lambda problem: uniform(problem.judged.members.names),
    "score": lambda problem: by_score(problem.alone),
    "paper": lambda problem: paper(problem.alone, problem.table),
    "greedy": lambda problem: named(problem, greedy(problem.value, len(problem.scores))),
    "coordinate": lambda problem: named(problem, coordinate(problem.value, len(problem.scores))),
}


def version(settings: Ensemble) -> int:
    """Of what is made with weights: 3 where a result changed with version 3, otherwise 2.

    Since 3 the paper's rule leaves no member at 0, and calibration smooths its targets.
    """
    changed = settings.weights == "paper" or settings.normalise == "sigmoid"
    return 3 if changed else 2


def calibration(scores: np.ndarray, gains: np.ndarray) -> list[float]:
    """(slope, shift): ``sigmoid(slope * s + shift)`` is how likely a score s means relevance.

    Platt's method (1999) on a member's raw ``scores`` [query, passage] with their ``gains``: the
    likeliest line of slope >= 0, for his smoothed targets (N+ + 1) / (N+ + 2) of relevant and
    1 / (N- + 2) of other passages in place of 1 and 0. Scores that are all equal, or judgments
    of one kind, leave (1, 0).
    """
    from scipy.optimize import minimize

    scored = ~np.isnan(scores)
    own = scores[scored]
    positive = gains[scored] > 0
    if not len(own) or own.std() == 0 or positive.all() or not positive.any():
        return [1.0, 0.0]
    positives = positive.sum()
    negatives = (~positive).sum()
    target_of_relevant = (positives + 1.0) / (positives + 2.0)
    target_of_other = 1.0 / (negatives + 2.0)
    target = np.where(positive, target_of_relevant, target_of_other)
    z = (own - own.mean()) / own.std()

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy and its gradient."""
        logits = line[0] * z + line[1]
        wrong = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - target
        entropy = np.mean(np.logaddexp(0, logits) - target * logits)
        return float(entropy), np.array([np.mean(wrong * z), np.mean(wrong)])

    bounds = [(0.0, 50.0), (-50.0, 50.0)]
    slope, shift = minimize(loss, [1.0, 0.0], jac=True, bounds=bounds, method="L-BFGS-B").x
    # slope and shift are of z; of the raw scores they are
    return [float(slope / own.std()), float(shift - slope * own.mean() / own.std())]


def prepared(
    scores: np.ndarray, names: Sequence[str], chosen: Mapping, settings: Ensemble
) -> np.ndarray:
    """Scores [member, query, passage], calibrated if that was fitted, then normalised."""
    if chosen.get("calibration"):
        lines = np.array([chosen["calibration"][name] for name in names])
        slopes = lines[:, 0, None, None]
        shifts = lines[:, 1, None, None]
        scores = slopes * scores + shifts
    return normalised(scores, settings.normalise)


def fit(
    judged: Judged, settings: Ensemble, rule: str | None = None, shrink: float | None = None
) -> dict:
    """What ``apply`` needs, fit for JSON; ``rule``, ``shrink``: those of ``settings`` without them.

    ``weights``, and by the settings ``calibration`` (member -> line) and ``by_language``
    (language -> weights); beside them what they were chosen by.
    """
    names = judged.members.names
    rule = rule or cast(str, settings.weights)
    shrink = shrink or settings.shrink
    chosen: dict = {"rule": rule}
    if settings.normalise == "sigmoid":
        chosen["calibration"] = {}
        for name, raw in zip(names, judged.members.scores, strict=True):
            chosen["calibration"][name] = calibration(raw, judged.gains)
    scores = prepared(judged.members.scores, names, chosen, settings)
    problem = Problem(judged, scores, settings.missing, settings.fusion)
    chosen["weights"] = RULES[rule](problem)
    chosen["dev nDCG@10"] = problem.alone
    chosen["correlations"] = problem.table
    if shrink:
        chosen["by_language"] = by_language(problem, chosen["weights"], rule, shrink)
    return chosen


def by_language(
    problem: Problem, overall: Mapping[str, float], rule: str, shrink: float
) -> dict[str, dict[str, float]]:
    """Language -> the rule's choice on its queries alone, shrunk to the ``overall`` weights."""
    judged = problem.judged
    weights = {}
    for language in dict.fromkeys(judged.languages.tolist()):
        rows = judged.languages == language
        own = Problem(judged.part(rows), problem.scores[:, rows], problem.missing, problem.fusion)
        chosen = RULES[rule](own)
        weights[language] = shrunk(chosen, overall, int(rows.sum()), shrink)
    return weights


def apply(members: Aligned, chosen: Mapping, settings: Ensemble) -> np.ndarray:
    """Fused values [query, passage]; a language without weights of its own has the global ones."""
    scores = prepared(members.scores, members.names, chosen, settings)
    fuse = FUSIONS[settings.fusion]
    own_weights = chosen.get("by_language", {})
    values = np.empty(scores.shape[1:])
    languages = languages_of(members)
    for language in dict.fromkeys(languages.tolist()):
        rows = languages == language
        weights = own_weights.get(language, chosen["weights"])
        in_order = [weights[name] for name in members.names]
        values[rows] = fuse(scores[:, rows], in_order, settings.missing)
    return values


def matrix_rows(table: Table) -> list[list[str]]:
    """The correlations as a table with a head."""
    rows = [["", *table]]
    for name, by_other in table.items():
        rows.append([name, *(f"{r:.3f}" for r in by_other.values())])
    return rows
