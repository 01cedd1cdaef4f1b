"""Stacking: LambdaMART (LightGBM) over the members' scores, a row a candidate.

Higher scores of a member never lower a passage (monotone constraints): on a few hundred queries that is worth more than freedom.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import InputError
from core.files import write_json
from core.folds import trigrams
from core.fusion import Aligned, count, highest, minmax, ranks
from core.settings import Stacking
from ensemble.weights import Judged, Key, query_correlations

Texts = Callable[
    [Key, Sequence[str]], tuple[str, list[str]]
]  # (query, docids) -> its text, their texts
STEP = 10  # trees between two looks at the inner folds


def member_features(name: str, scores: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Feature name -> ([query, passage], monotone direction)."""
    return {
        f"{name} score": (scores, 1),
        f"{name} rank": (np.where(np.isnan(scores), np.nan, ranks(scores)), -1),
        f"{name} margin": (highest(scores) - scores, -1),
        f"{name} share": (np.where(np.isnan(scores), np.nan, minmax(scores)), 1),
    }


def agreement_features(scores: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """How far the members agree: on the passage, and on the query."""
    shares = np.stack([np.where(np.isnan(s), 0.0, minmax(s)) for s in scores])
    top = sum((ranks(s) <= 10) & ~np.isnan(s) for s in scores)
    pairs = [query_correlations(a, b) for i, a in enumerate(scores) for b in scores[:i]]
    alike = np.stack(pairs) if pairs else np.zeros((1, scores.shape[1]))
    known = (~np.isnan(alike)).sum(0)
    return {
        "mean share": (shares.mean(0), 1),
        "spread of shares": (shares.std(0), 0),
        "members with it in their ten": (top.astype(float), 1),
        "agreement on the query": (
            np.broadcast_to(
                (np.nansum(alike, 0) / np.maximum(known, 1))[:, None], scores.shape[1:]
            ),
            0,
        ),
        "candidates": (np.broadcast_to(count(shares.mean(0)) * 1.0, scores.shape[1:]), 0),
    }


def text_features(members: Aligned, texts: Texts) -> dict[str, tuple[np.ndarray, int]]:
    """Lengths in characters, and the share of the query's letter trigrams that the passage holds."""
    found = np.full((3, *members.scores.shape[1:]), np.nan)
    for i, (key, docids) in enumerate(zip(members.queries, members.docids)):
        query, passages = texts(key, docids)
        grams = trigrams(query)
        for j, passage in enumerate(passages):
            found[:, i, j] = len(query), len(passage), len(grams & trigrams(passage)) / len(grams)
    return dict(zip(("query length", "passage length", "overlap"), ((layer, 0) for layer in found)))


def features(
    members: Aligned, texts: Texts, languages: Sequence[str]
) -> dict[str, tuple[np.ndarray, int]]:
    """All features by name. ``language`` is the place in ``languages``; one that was not trained on is missing (NaN)."""
    place = {la: float(i) for i, la in enumerate(languages)}
    language = np.array([place.get(la, np.nan) for la, _ in members.queries])
    found: dict = {}
    for name, scores in zip(members.names, members.scores):
        found |= member_features(name, scores)
    return {
        **found,
        **agreement_features(members.scores),
        **text_features(members, texts),
        "language": (np.broadcast_to(language[:, None], members.scores.shape[1:]), 0),
    }


class Stack:
    """Features and labels of judged queries in LightGBM's layout: rows by query, every group with at least one row."""

    def __init__(
        self, judged: Judged, texts: Texts, languages: Sequence[str], settings: Stacking, seed: int
    ):
        self.judged, self.s, self.seed, self.languages = judged, settings, seed, list(languages)
        table = features(judged.members, texts, languages)
        self.names, self.monotone = list(table), [direction for _, direction in table.values()]
        self.values = np.stack(
            [values for values, _ in table.values()], -1
        )  # [query, passage, feature]
        if not judged.gains.any():
            raise InputError(
                "stacking: no relevant passage among the reranked candidates of the judged queries; raise ranking.rerank.depth"
            )

    def train(self, rows: np.ndarray, trees: int):
        """A booster from the queries of the mask ``rows``."""
        import lightgbm

        present = self.judged.members.present[rows]
        chosen = np.flatnonzero(rows)[present.any(1)]
        mask = self.judged.members.present[chosen]
        labels = self.judged.gains[chosen][mask].astype(int)
        data = lightgbm.Dataset(
            self.values[chosen][mask],
            labels,
            group=mask.sum(1),
            feature_name=[n.replace(" ", "_") for n in self.names],
            categorical_feature=[self.names.index("language")],
            params={"verbosity": -1},
        )
        parameters = {
            "objective": "lambdarank",
            "label_gain": list(range(max(labels.max(), 1) + 1)),
            "lambdarank_truncation_level": 12,
            "learning_rate": self.s.learning_rate,
            "num_leaves": self.s.leaves,
            "min_data_in_leaf": self.s.min_leaf,
            "feature_fraction": 0.6,
            "monotone_constraints": self.monotone,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        return lightgbm.train(parameters, data, trees)

    def predict(self, booster, rows: np.ndarray, trees: int | None = None) -> np.ndarray:
        """[query, passage] of the queries of the mask; padding is NaN."""
        return predicted(booster, self.values[rows], self.judged.members.present[rows], trees)

    def best_trees(self, rows: np.ndarray, folds: np.ndarray) -> int:
        """The number of trees with the best nDCG@10 out of fold, within the queries of the mask."""
        steps = [*range(STEP, self.s.trees, STEP), self.s.trees]
        found = np.zeros((len(steps), int(rows.sum())))
        inner = folds[rows]
        for fold in sorted(set(inner.tolist())):
            held = rows & (folds == fold)
            booster = self.train(rows & (folds != fold), self.s.trees)
            for i, trees in enumerate(steps):
                found[i, inner == fold] = self.judged.part(held).per_query(
                    self.predict(booster, held, trees)
                )
        part = self.judged.part(rows)
        return steps[int(np.argmax([part.macro(per_query) for per_query in found]))]

    def fit(self, rows: np.ndarray, folds: np.ndarray):
        return self.train(rows, self.best_trees(rows, folds))


def predicted(
    booster, values: np.ndarray, present: np.ndarray, trees: int | None = None
) -> np.ndarray:
    found = np.full(present.shape, np.nan)
    if present.any():
        found[present] = booster.predict(values[present], num_iteration=trees)
    return found


def importance(
    booster, names: Sequence[str], values: np.ndarray, present: np.ndarray, languages: np.ndarray
) -> dict[str, dict[str, float]]:
    """Language -> feature -> share of what moves the scores: mean absolute contribution (TreeSHAP, which LightGBM computes)."""
    found = {}
    for la in dict.fromkeys(languages.tolist()):
        rows = languages == la
        parts = np.abs(
            booster.predict(values[rows][present[rows]], pred_contrib=True)[:, :-1]
        ).mean(0)
        shares = parts / max(parts.sum(), 1e-300)
        found[la] = {names[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}
    return found


def save(folder: Path, booster, stack: Stack, note: Mapping) -> None:
    """The model as text, and what is needed to make its features again."""
    (folder / "model.txt").write_text(booster.model_to_string(), "utf-8")
    shares = importance(
        booster, stack.names, stack.values, stack.judged.members.present, stack.judged.languages
    )
    write_json(
        folder / "stacking.json",
        {
            **note,
            "members": list(stack.judged.members.names),
            "features": stack.names,
            "languages": stack.languages,
            "trees": booster.num_trees(),
            "queries": len(stack.values),
            "importance": shares,
        },
    )


def apply(folder: Path, members: Aligned, texts: Texts) -> np.ndarray:
    """A saved model's values [query, passage]; raises InputError for members other than those it was trained with."""
    import lightgbm

    note = json.loads((folder / "stacking.json").read_text("utf-8"))
    if note["members"] != list(members.names):
        raise InputError(
            f"{folder}: the model was trained with the members {', '.join(note['members'])}, found {', '.join(members.names)}"
        )
    table = features(members, texts, note["languages"])
    return predicted(
        lightgbm.Booster(model_str=(folder / "model.txt").read_text("utf-8")),
        np.stack([v for v, _ in table.values()], -1),
        members.present,
    )
