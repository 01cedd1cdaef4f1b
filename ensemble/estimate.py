"""What each way of fusing is worth on queries that it was not tuned on.

Every method is fitted on all folds but one and measured on that one, in turn; what it chooses
inside (a number of trees) it chooses by folds within the training folds. The best single member is
chosen in the same way, so that the gain over it is fair.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core.evaluate import randomisation_test
from core.settings import Ensemble
from ensemble import weights
from ensemble.weights import Judged, Key

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(mask of the queries to learn from, of those to fuse) -> fused values [query, passage]."""

SHRINK = 50.0  # of the row "coordinate, by language", where the settings name no other


def plain(settings: Ensemble) -> Ensemble:
    """``shrink`` of the settings is set aside: each row of the estimates is one method."""
    return settings.model_copy(update={"shrink": None})


def rules(settings: Ensemble, languages: int) -> dict[str, tuple[str, float | None]]:
    """Method -> weighting rule and shrinkage.

    Weights by language make sense from two ``languages`` on.
    """
    by_method: dict[str, tuple[str, float | None]] = {rule: (rule, None) for rule in weights.RULES}
    if languages > 1:
        by_method["coordinate, by language"] = ("coordinate", settings.shrink or SHRINK)
    return by_method


def rule_method(
    judged: Judged, settings: Ensemble, rule: str, shrink: float | None = None
) -> Method:
    """Weights by a rule."""

    def fused(learn: np.ndarray, rows: np.ndarray) -> np.ndarray:
        chosen = weights.fit(judged.part(learn), plain(settings), rule, shrink)
        return weights.apply(judged.part(rows).members, chosen, plain(settings))

    return fused


def single_method(judged: Judged) -> Method:
    """The member that is best alone."""

    def best(learn: np.ndarray, rows: np.ndarray) -> np.ndarray:
        part = judged.part(learn)
        alone = [part.macro(part.per_query(scores)) for scores in part.members.scores]
        return judged.members.scores[int(np.argmax(alone))][rows]

    return best


def methods(judged: Judged, settings: Ensemble, stacked: Method | None) -> dict[str, Method]:
    """All rows of the estimates, the one that the gains are measured against first."""
    by_name = {"best single": single_method(judged)}
    languages = len(set(judged.languages.tolist()))
    for name, (rule, shrink) in rules(settings, languages).items():
        by_name[name] = rule_method(judged, settings, rule, shrink)
    if stacked:
        by_name["stacking"] = stacked
    return by_name


def nested(judged: Judged, method: Method, folds: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query, fused by what was learnt from the other folds."""
    per_query = np.zeros(len(folds))
    for fold in sorted(set(folds.tolist())):
        held = folds == fold
        fused = method(~held, held)
        per_query[held] = judged.part(held).per_query(fused)
    return per_query


def estimates(
    judged: Judged, folds: Mapping[Key, int], settings: Ensemble, stacked: Method | None, seed: int
) -> list[dict]:
    """A row a method, with its nested gain over the best single member and how sure that is.

    ``same`` is what was learnt and measured on all queries, ``nested`` is honest.
    """
    fold = np.array([folds[key] for key in weights.keys_of(judged.members)])
    everything = np.ones(len(fold), bool)
    base = nested(judged, single_method(judged), fold)
    table: list[dict] = []
    for name, method in methods(judged, settings, stacked).items():
        honest = nested(judged, method, fold)
        on_what_it_learnt = judged.per_query(method(everything, everything))
        row = {
            "method": name,
            "same": judged.macro(on_what_it_learnt),
            "nested": judged.macro(honest),
            "gain": judged.macro(honest) - judged.macro(base),
        }
        table.append(row | tested(honest - base, judged.languages.tolist(), seed))
    return table


def tested(differences: np.ndarray, languages: list[str], seed: int) -> dict:
    """Of each query's gain: how many are won and lost, and p of the mean over languages."""
    return {
        "wins": int((differences > 1e-12).sum()),
        "losses": int((differences < -1e-12).sum()),
        "queries": len(differences),
        "p": randomisation_test(differences.tolist(), languages, seed=seed),
    }


def rows(
    estimated: Sequence[Mapping], elsewhere: Mapping[str, Mapping[str, float]] | None = None
) -> list[list[str]]:
    """The estimates as a table with a head.

    ``elsewhere``: more columns, name -> method -> nDCG@10 of what was fitted on all of dev.
    """
    elsewhere = elsewhere or {}
    head = ["method", "same queries", "nested", "gain over the best single"]
    table = [[*head, "won", "lost", "of", "p", *elsewhere]]
    for row in estimated:
        method = row["method"]
        figures = [f"{row['same']:.4f}", f"{row['nested']:.4f}", f"{row['gain']:+.4f}"]
        counts = [str(row["wins"]), str(row["losses"]), str(row["queries"])]
        cells = [method, *figures, *counts, f"{row['p']:.4f}"]
        for by_method in elsewhere.values():
            cells.append(f"{by_method[method]:.4f}")
        table.append(cells)
    return table
