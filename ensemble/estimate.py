"""What each way of fusing is worth, honestly: weights that are tuned and measured on the same queries flatter themselves.

Every method is fitted on all folds but one and measured on that one, in turn; what it chooses inside (a number of trees) it chooses by
folds within the training folds. The best single member is chosen in the same way, so that the gain over it is fair.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core.evaluate import randomisation_test
from core.settings import Ensemble
from ensemble import weights
from ensemble.weights import Judged, Key

Method = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # masks of the queries to learn from and to fuse -> values [query, passage]
SHRINK = 50.0  # of the row "coordinate, by language", where the settings name no other


def plain(s: Ensemble) -> Ensemble:
    """``shrink`` of the settings is set aside: each row of the estimates is one method."""
    return s.model_copy(update={"shrink": None})


def rules(s: Ensemble, languages: int) -> dict[str, tuple[str, float | None]]:
    """Method -> weighting rule and shrinkage of weights by language, which makes sense from two languages on."""
    found: dict[str, tuple[str, float | None]] = {rule: (rule, None) for rule in weights.RULES}
    return found | (
        {"coordinate, by language": ("coordinate", s.shrink or SHRINK)} if languages > 1 else {}
    )


def rule_method(judged: Judged, s: Ensemble, rule: str, shrink: float | None = None) -> Method:
    return lambda learn, rows: weights.apply(
        judged.part(rows).members, weights.fit(judged.part(learn), plain(s), rule, shrink), plain(s)
    )


def single_method(judged: Judged) -> Method:
    def best(learn, rows):
        part = judged.part(learn)
        alone = [part.macro(part.per_query(scores)) for scores in part.members.scores]
        return judged.members.scores[int(np.argmax(alone))][rows]

    return best


def methods(judged: Judged, s: Ensemble, stacked: Method | None) -> dict[str, Method]:
    found = {
        name: rule_method(judged, s, *rule)
        for name, rule in rules(s, len(set(judged.languages.tolist()))).items()
    }
    return {
        "best single": single_method(judged),
        **found,
        **({"stacking": stacked} if stacked else {}),
    }


def nested(judged: Judged, method: Method, folds: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query, fused by what was learnt from the other folds."""
    found = np.zeros(len(folds))
    for fold in sorted(set(folds.tolist())):
        rows = folds == fold
        found[rows] = judged.part(rows).per_query(method(~rows, rows))
    return found


def estimates(
    judged: Judged, folds: Mapping[Key, int], s: Ensemble, stacked: Method | None, seed: int
) -> list[dict]:
    """A row a method: ``same`` (learnt and measured on all queries), ``nested``, and the nested gain over the best single member."""
    fold = np.array([folds[key] for key in judged.members.queries])
    everything = np.ones(len(fold), bool)
    found: list[dict] = []
    base = nested(judged, single_method(judged), fold)
    for name, method in methods(judged, s, stacked).items():
        honest = nested(judged, method, fold)
        found.append(
            {
                "method": name,
                "same": judged.macro(judged.per_query(method(everything, everything))),
                "nested": judged.macro(honest),
                "gain": judged.macro(honest) - judged.macro(base),
                **tested(honest - base, seed),
            }
        )
    return found


def tested(differences: np.ndarray, seed: int) -> dict:
    return {
        "wins": int((differences > 1e-12).sum()),
        "losses": int((differences < -1e-12).sum()),
        "queries": len(differences),
        "p": randomisation_test(differences.tolist(), seed=seed),
    }


def rows(
    found: Sequence[Mapping], elsewhere: Mapping[str, Mapping[str, float]] | None = None
) -> list[list[str]]:
    """A table; ``elsewhere``: column -> method -> nDCG@10 of what was fitted on all of dev."""
    elsewhere = elsewhere or {}
    return [
        [
            "method",
            "same queries",
            "nested",
            "gain over the best single",
            "won",
            "lost",
            "of",
            "p",
            *elsewhere,
        ],
        *(
            [
                v["method"],
                f"{v['same']:.4f}",
                f"{v['nested']:.4f}",
                f"{v['gain']:+.4f}",
                str(v["wins"]),
                str(v["losses"]),
                str(v["queries"]),
                f"{v['p']:.4f}",
                *(f"{by_method[v['method']]:.4f}" for by_method in elsewhere.values()),
            ]
            for v in found
        ),
    ]
