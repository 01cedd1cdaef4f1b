"""Stacking: LambdaMART (LightGBM) over the members' scores, a row a candidate.

Higher scores of a member never lower a passage (monotone constraints): on a few hundred queries
that is worth more than freedom.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import InputError
from core.files import write_json
from core.folds import trigrams
from core.fusion import Aligned, count, highest, minmax, ranks
from core.settings import Stacking
from ensemble.weights import Judged, Key, keys_of, languages_of, query_correlations

if TYPE_CHECKING:
    from lightgbm import Booster

Texts = Callable[[Key, Sequence[str]], tuple[str, list[str]]]
"""(query, docids) -> the query's text, the passages' texts."""

Features = dict[str, tuple[np.ndarray, int]]
"""Name -> ([query, passage] values, direction: 1 or -1 where they are monotone, 0 where not)."""

STEP = 10  # trees between two looks at the inner folds
IN_THEIR_TEN = 10  # passages of a member that count as its best


def member_features(name: str, scores: np.ndarray) -> Features:
    """Of one member's ``scores`` [query, passage]; NaN where it lacks a passage."""
    absent = np.isnan(scores)
    return {
        f"{name} score": (scores, 1),
        f"{name} rank": (np.where(absent, np.nan, ranks(scores)), -1),
        f"{name} margin": (highest(scores) - scores, -1),
        f"{name} share": (np.where(absent, np.nan, minmax(scores)), 1),
    }


def agreement_features(scores: np.ndarray) -> Features:
    """How far the members' ``scores`` [member, query, passage] agree: on passage and query."""
    per_passage = scores.shape[1:]
    own_shares = []
    in_their_ten = np.zeros(per_passage)
    for own in scores:
        absent = np.isnan(own)
        own_shares.append(np.where(absent, 0.0, minmax(own)))
        in_their_ten += (ranks(own) <= IN_THEIR_TEN) & ~absent
    shares = np.stack(own_shares)
    agreement = mean_correlation(scores)
    mean_share = shares.mean(0)
    candidates = count(mean_share) * 1.0
    return {
        "mean share": (mean_share, 1),
        "spread of shares": (shares.std(0), 0),
        "members with it in their ten": (in_their_ten, 1),
        "agreement on the query": (np.broadcast_to(agreement[:, None], per_passage), 0),
        "candidates": (np.broadcast_to(candidates, per_passage), 0),
    }


def mean_correlation(scores: np.ndarray) -> np.ndarray:
    """[query] mean of the members' correlations, two by two, where defined; 0 where none is."""
    by_pair = []
    for i, first in enumerate(scores):
        for second in scores[:i]:
            by_pair.append(query_correlations(first, second))
    if not by_pair:
        return np.zeros(scores.shape[1])
    correlations = np.stack(by_pair)
    defined = (~np.isnan(correlations)).sum(0)
    return np.nansum(correlations, 0) / np.maximum(defined, 1)


def text_features(members: Aligned, texts: Texts) -> Features:
    """Lengths in characters; the share of the query's letter trigrams that the passage holds."""
    query_length, passage_length, overlap = np.full((3, *members.scores.shape[1:]), np.nan)
    for i, (key, docids) in enumerate(zip(keys_of(members), members.docids, strict=True)):
        query, passages = texts(key, docids)
        grams = trigrams(query)
        for j, passage in enumerate(passages):
            query_length[i, j] = len(query)
            passage_length[i, j] = len(passage)
            overlap[i, j] = len(grams & trigrams(passage)) / len(grams)
    return {
        "query length": (query_length, 0),
        "passage length": (passage_length, 0),
        "overlap": (overlap, 0),
    }


def features(members: Aligned, texts: Texts, languages: Sequence[str]) -> Features:
    """All features by name.

    ``language`` is the place in ``languages``; one that was not trained on is missing (NaN).
    """
    table: Features = {}
    for name, scores in zip(members.names, members.scores, strict=True):
        table |= member_features(name, scores)
    table |= agreement_features(members.scores)
    table |= text_features(members, texts)
    place = {language: float(i) for i, language in enumerate(languages)}
    of_query = np.array([place.get(language, np.nan) for language in languages_of(members)])
    table["language"] = (np.broadcast_to(of_query[:, None], members.scores.shape[1:]), 0)
    return table


def stacked(table: Features) -> np.ndarray:
    """The features as [query, passage, feature]."""
    return np.stack([values for values, _ in table.values()], -1)


class Stack:
    """Features and labels of judged queries, and models of some of them.

    Raises InputError where no candidate of any query is relevant.
    """

    def __init__(
        self, judged: Judged, texts: Texts, languages: Sequence[str], settings: Stacking, seed: int
    ):
        self.judged = judged
        self.settings = settings
        self.seed = seed
        self.languages = list(languages)
        table = features(judged.members, texts, languages)
        self.names = list(table)
        self.monotone = [direction for _, direction in table.values()]
        self.values = stacked(table)  # [query, passage, feature]
        if not judged.gains.any():
            raise InputError(
                "stacking: no relevant passage among the reranked candidates of the judged "
                "queries; raise ranking.rerank.depth"
            )

    def train(self, rows: np.ndarray, trees: int) -> "Booster":
        """A booster from the queries of the mask ``rows``.

        LightGBM's layout is rows by query, each query with the number of its rows; one without a
        candidate has no place in it.
        """
        import lightgbm

        answered = self.judged.members.present.any(1)
        chosen = np.flatnonzero(rows & answered)
        mask = self.judged.members.present[chosen]
        labels = self.judged.gains[chosen][mask].astype(int)
        data = lightgbm.Dataset(
            self.values[chosen][mask],
            labels,
            group=mask.sum(1),
            feature_name=[name.replace(" ", "_") for name in self.names],
            categorical_feature=[self.names.index("language")],
            params={"verbosity": -1},
        )
        parameters = {
            "objective": "lambdarank",
            "label_gain": list(range(max(labels.max(), 1) + 1)),  # linear, as trec_eval's nDCG
            "lambdarank_truncation_level": 12,  # two more than nDCG@10 looks at
            "learning_rate": self.settings.learning_rate,
            "num_leaves": self.settings.leaves,
            "min_data_in_leaf": self.settings.min_leaf,
            "feature_fraction": 0.6,
            "monotone_constraints": self.monotone,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        return lightgbm.train(parameters, data, trees)

    def predict(self, booster: "Booster", rows: np.ndarray, trees: int | None = None) -> np.ndarray:
        """[query, passage] of the queries of the mask; padding is NaN."""
        return predicted(booster, self.values[rows], self.judged.members.present[rows], trees)

    def best_trees(self, rows: np.ndarray, folds: np.ndarray) -> int:
        """The number of trees with the best nDCG@10 out of fold, within the queries of the mask.

        Raises InputError where they are all in one fold, so that nothing is left to learn from.
        """
        most = self.settings.trees
        tried = [*range(STEP, most, STEP), most]
        per_query = np.zeros((len(tried), int(rows.sum())))
        inner = folds[rows]
        if len(set(inner.tolist())) < 2:
            raise InputError(
                f"stacking: found {int(rows.sum())} judged queries in one fold, expected queries "
                "in two at least; raise limit, or set ensemble.stacking=null"
            )
        for fold in sorted(set(inner.tolist())):
            held = rows & (folds == fold)
            held_part = self.judged.part(held)
            booster = self.train(rows & (folds != fold), most)
            for i, trees in enumerate(tried):
                values = self.predict(booster, held, trees)
                per_query[i, inner == fold] = held_part.per_query(values)
        part = self.judged.part(rows)
        means = [part.macro(of_queries) for of_queries in per_query]
        return tried[int(np.argmax(means))]

    def fit(self, rows: np.ndarray, folds: np.ndarray) -> "Booster":
        """A booster from the queries of the mask, with the number of trees that folds tell."""
        return self.train(rows, self.best_trees(rows, folds))


def predicted(
    booster: "Booster", values: np.ndarray, present: np.ndarray, trees: int | None = None
) -> np.ndarray:
    """[query, passage] of features ``values``; NaN where no passage is ``present``."""
    made = np.full(present.shape, np.nan)
    if present.any():
        made[present] = booster.predict(values[present], num_iteration=trees)
    return made


def importance(
    booster: "Booster",
    names: Sequence[str],
    values: np.ndarray,
    present: np.ndarray,
    languages: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Language -> feature -> share of what moves the scores, the largest first.

    Mean absolute contributions (TreeSHAP, which LightGBM computes).
    """
    by_language = {}
    for language in dict.fromkeys(languages.tolist()):
        rows = languages == language
        candidates = values[rows][present[rows]]
        contributions = np.asarray(booster.predict(candidates, pred_contrib=True))
        moved = np.abs(contributions[:, :-1]).mean(0)  # the last column is the mean score
        shares = moved / max(moved.sum(), 1e-300)
        order = np.argsort(-shares, kind="stable")
        by_language[language] = {names[i]: float(shares[i]) for i in order}
    return by_language


def save(folder: Path, booster: "Booster", stack: Stack, note: Mapping) -> None:
    """The model as text, and what is needed to make its features again."""
    (folder / "model.txt").write_text(booster.model_to_string(), "utf-8")
    shares = importance(
        booster=booster,
        names=stack.names,
        values=stack.values,
        present=stack.judged.members.present,
        languages=stack.judged.languages,
    )
    description = {
        **note,
        "members": list(stack.judged.members.names),
        "features": stack.names,
        "languages": stack.languages,
        "trees": booster.num_trees(),
        "queries": len(stack.values),
        "importance": shares,
    }
    write_json(folder / "stacking.json", description)


def apply(folder: Path, members: Aligned, texts: Texts) -> np.ndarray:
    """A saved model's values [query, passage].

    Raises InputError for members other than those it was trained with.
    """
    import lightgbm

    note = json.loads((folder / "stacking.json").read_text("utf-8"))
    if note["members"] != list(members.names):
        raise InputError(
            f"{folder}: the model was trained with the members {', '.join(note['members'])}, "
            f"found {', '.join(members.names)}"
        )
    booster = lightgbm.Booster(model_str=(folder / "model.txt").read_text("utf-8"))
    values = stacked(features(members, texts, note["languages"]))
    return predicted(booster, values, members.present)
