"""The settings of training groups: how a recipe selects, filters and augments."""

from typing import Literal

from core.judging import Judge
from core.parts import Count, Name, NotNegative, Part, Share, Whole


class Bounds(Part):
    """Which candidates may be negatives, by their rank and their score."""

    shift: Whole = 0  # best candidates that are passed over (Top-K shifted by N)
    below: float | None = None  # Abs: a threshold
    # MarginPos: the best relevant passage's score minus this
    margin: NotNegative | None = None
    share: Share | None = None  # PercPos: this share of the best relevant passage's score


class Select(Bounds):
    """Which candidates are the negatives of a training group.

    The thresholds are on the scores of one first-stage system.
    """

    draw: Literal["random", "top"] = "random"  # NS-k; or the k best (Top-K)
    scores: str = "hybrid"  # or a source of retrieval


class Filters(Part):
    """Negatives that are left out, each kind counted."""

    # from this share of trigrams in common with a relevant passage
    near_duplicates: Share | None = None
    same_article: bool = False  # as a relevant passage
    # a folder of LANG-train.trec: those that it puts above a relevant passage
    teacher: str | None = None
    # those that a judge does not find irrelevant, as of an encoder's negatives; {} for its defaults
    judge: Judge | None = None


class Q2Q2D(Part):
    """Judged passages of similar training queries for unlabelled queries (paper, 4.4.1)."""

    split: Name = "testA"  # the unlabelled queries: those of this split
    # a sentence encoder: sentence-transformers/paraphrase-multilingual-mpnet-base-v2 in the paper
    backbone: str = "embedded"
    neighbours: Count = 3  # training queries an unlabelled one
    threshold: float = 0.8  # of their cosine
    alpha: Share = 0.9
    # any: surprise languages have no training queries of their own
    languages: Literal["same", "any"] = "same"


class PseudoLabel(Part):
    """A trained system's scores as labels of unlabelled queries (paper, 4.4.2)."""

    teacher: str  # a system of the round before, or a folder of LANG-SPLIT.trec
    split: Name = "testA"
    depth: Count = 20  # best passages a query that may be taken
    share: Share = 0.5  # of them, drawn at random
    number: Count | None = None  # most of them a query, drawn at random
    labels: Literal["soft", "hard"] = "soft"
    threshold: Share = 0.5  # of hard labels
    # sigmoid: logits; minmax: any scores, by query; none: scores that lie in [0, 1]
    calibrate: Literal["sigmoid", "minmax", "none"] = "sigmoid"
    alpha: Share = 0.9


class Recipe(Part):
    """Training groups: what pairs a ranker learns from."""

    judged_negatives: Whole | None = None  # judged 0, a query; all without it
    negatives: Whole = 100  # NS-k: drawn from the candidates, a query and draw
    draws: Count = 1  # 1: once; n: n different draws, used by the epochs in turn
    select: Select = Select()
    filters: Filters = Filters()
    corpus_negatives: Whole = 0  # drawn from the whole corpus, a query
    q2q2d: Q2Q2D | None = None
    pseudo_label: PseudoLabel | None = None
    # most pairs a draw of an ORIGIN, a LANGUAGE, or a "LANGUAGE ORIGIN", drawn at random
    caps: dict[str, Count] = {}

    @property
    def recipe_settings(self) -> dict:
        """What decides the groups; what is not set is as in recipes that knew nothing of it."""
        first = {"judged_negatives", "negatives", "draws"}
        settings = {
            **self.model_dump(include=first),
            **self.model_dump(exclude=first, exclude_defaults=True),
        }
        if self.filters.judge is not None:
            judge = self.filters.judge.recipe_settings
            settings["filters"] = {**settings["filters"], "judge": judge}
        return settings

    @property
    def targets(self) -> list[str]:
        """The splits whose unlabelled queries it uses."""
        splits = [part.split for part in (self.q2q2d, self.pseudo_label) if part is not None]
        return list(dict.fromkeys(splits))
