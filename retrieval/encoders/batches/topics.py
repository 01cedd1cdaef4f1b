"""Batches of one language and of many topics (data-utilization-2025, 3.5 and B.4).

A topic is a cluster of positives: of their vectors, or of the probabilities that fastText's models
give their labels, as the paper joins the labels of two models to twelve topics. A batch's language
is drawn, with ``balance: uniform`` all as likely; its places go to the language's topics evenly,
as far as those have examples. In the loss an example counts omega = alpha of its language's share
plus beta of its topic's; the paper gives a negative that weight, and here all negatives of an
example are of its language, and have its positive's topic.
"""

from typing import TYPE_CHECKING

import numpy as np

from core.console import say
from core.distributed import generator
from core.errors import InputError
from retrieval.encoders.batches.clusters import VectorsOf, clusters_of
from retrieval.encoders.material import Material
from retrieval.encoders.pairs import Pairs

if TYPE_CHECKING:
    import torch

    from retrieval.encoders.encoding import Encode

NUMBER = 0  # of the only clustering
ALL = -1  # labels that fastText is to tell
BEFORE_ALL = -1  # a batch's number that no batch has: of the positives whose topics are told


class Topics:
    """In memory are 4 bytes an example for its topic, and 8 for its place in an order by topic.

    Raises InputError for fewer examples than topics. A language with fewer examples than a batch
    has shorter batches, which is said.
    """

    def __init__(self, material: Material, pairs: Pairs):
        settings = material.settings
        self.material = material
        self.pairs = pairs
        self.settings = settings
        self.own = settings.topics
        self.spans = {name: span for name, span in pairs.spans.items() if len(span)}
        self.sizes = np.array([len(span) for span in self.spans.values()])
        self.count = int(self.sizes.sum())
        # what batches are taken from, one of them each
        self.groups = list(self.spans.values()) if self.own.one_language else [range(self.count)]
        if self.count < self.own.count:
            raise InputError(
                f"retrieval.encoders.{material.name}.topics.count: found {self.own.count}, "
                f"expected at most {self.count}, the examples that are to have a topic; lower it"
            )
        small = [name for name, span in self.spans.items() if len(span) < settings.batch_size]
        if small and self.own.one_language:
            say(
                f"  note: {material.name}: {', '.join(small)} have fewer examples than batch_size "
                f"{settings.batch_size}: their batches are shorter"
            )
        self.topics = np.zeros(0, np.int32)  # of each example; empty before the first step

    # ---- Topics

    def waits(self, step: int) -> bool:
        """Before the first step: the topics are to be found."""
        return not len(self.topics)

    def begin(self, step: int, encode: "Encode") -> None:
        """Finds the topics, once."""
        if not self.waits(step):
            return
        self.positives = self.pairs.positives(np.arange(self.count), BEFORE_ALL)
        vectors_of = self.by_labels() if self.own.models else self.by_vectors(encode)
        found = clusters_of(
            vectors_of, self.count, self.own.count, seed=self.settings.seed, number=NUMBER
        )
        self.take(found)
        shares = np.bincount(found, minlength=self.own.count) / self.count
        say(
            f"  {self.material.name}: {self.own.count} topics of {self.count} positives, shares "
            f"from {shares.min():.1%} to {shares.max():.1%}"
        )

    def by_vectors(self, encode: "Encode") -> VectorsOf:
        """Vectors of positives, by the teacher or by the model as it begins."""
        if self.material.teacher is not None:
            encode = self.material.teacher()
        return lambda numbers: encode.own(self.texts(numbers), "passage")

    def by_labels(self) -> VectorsOf:
        """The probabilities of all labels of all models."""
        models = [Labels(path) for path in self.own.models]

        def probabilities(numbers: np.ndarray) -> np.ndarray:
            texts = self.texts(numbers)
            return np.concatenate([model(texts) for model in models], axis=1)

        return probabilities

    def texts(self, numbers: np.ndarray) -> list[str]:
        """A positive of each example, always the same."""
        return self.material.corpus.texts(self.positives[numbers])

    def take(self, topics: np.ndarray) -> None:
        """Makes ``topics`` of the examples those that batches and weights come from."""
        self.topics = topics
        # of each language, or of all together: the examples of each of its topics
        self.members: list[list[np.ndarray]] = []
        for span in self.groups:
            own = topics[span.start : span.stop]
            here = [span.start + np.flatnonzero(own == topic) for topic in np.unique(own)]
            self.members.append(here)
        topic_sizes = np.bincount(topics, minlength=self.own.count)
        self.of_language = self.own.alpha * factors(self.sizes, self.own.power)
        self.of_topic = self.own.beta * factors(topic_sizes, self.own.power)

    # ---- Batches

    def of_step(self, step: int) -> list[np.ndarray]:
        """``accumulation`` batches."""
        first = step * self.settings.accumulation
        return [self.batch(first + part) for part in range(self.settings.accumulation)]

    def batch(self, number: int) -> np.ndarray:
        """Different examples of one language, of each of its topics about as many."""
        random = generator(self.settings.seed, number, "topics")
        chances = np.array([len(span) for span in self.groups]) / self.count
        if self.settings.balance == "uniform":
            chances = np.full(len(self.groups), 1 / len(self.groups))
        members = self.members[int(random.choice(len(self.groups), p=chances))]
        sizes = np.array([len(own) for own in members])
        places = spread(sizes, self.settings.batch_size, random)
        parts = []
        for own, count in zip(members, places.tolist(), strict=True):
            parts.append(own[random.choice(len(own), count, replace=False)])
        return np.concatenate(parts)

    def weights(self, numbers: np.ndarray) -> np.ndarray | None:
        """Omega of each example."""
        ends = np.cumsum(self.sizes)  # spans lie one behind another
        first = next(iter(self.spans.values())).start
        languages = np.searchsorted(ends, numbers - first, side="right")
        of_both = self.of_language[languages] + self.of_topic[self.topics[numbers]]
        return of_both.astype(np.float32)

    # ---- State

    def state(self) -> "dict[str, torch.Tensor]":
        """The topic of each example."""
        import torch

        return {"topics": torch.from_numpy(self.topics)}

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """As they were."""
        self.take(state["topics"].numpy())


def factors(sizes: np.ndarray, power: float) -> np.ndarray:
    """Shares to a power, so that their mean over the categories is 1; 0 for an empty one.

    The paper's weights are "based on the portion of each category"; with power 1 they grow with
    it, and for equal shares they are alpha and beta themselves, the figures of its Table 9.
    """
    is_there = sizes > 0
    raised = np.zeros(len(sizes))
    raised[is_there] = (sizes[is_there] / sizes.sum()) ** power
    return raised / raised[is_there].mean()


def spread(sizes: np.ndarray, places: int, random: np.random.Generator) -> np.ndarray:
    """How many of the places each topic gets, as evenly as its ``sizes`` allow.

    Which topics get what is left over is drawn. Fewer places than asked for where all sizes
    together are less.
    """
    given = np.zeros(len(sizes), np.int64)
    left = min(places, int(sizes.sum()))
    while left:
        open_topics = np.flatnonzero(given < sizes)
        each = left // len(open_topics)
        if each:
            more = np.minimum(sizes[open_topics] - given[open_topics], each)
            given[open_topics] += more
            left -= int(more.sum())
        else:
            lucky = random.permutation(open_topics)[:left]
            given[lucky] += 1
            left = 0
    return given


class Labels:
    """A supervised model of fastText: texts to the probabilities of its labels.

    Raises InputError for a file that is none.
    """

    def __init__(self, path: str):
        import fasttext  # fasttext-predict: what reads its models, and no more

        try:
            self.model = fasttext.load_model(path)
            names, _ = self.model.predict("", k=ALL)
        except ValueError as error:
            raise InputError(
                f"topics.models: {path}: {error} Expected a supervised model of fastText, as .bin "
                "or .ftz"
            ) from None
        self.column = {name: column for column, name in enumerate(sorted(names))}

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Fp32 [texts, labels]."""
        found = np.zeros((len(texts), len(self.column)), np.float32)
        for row, text in enumerate(texts):
            names, probabilities = self.model.predict(" ".join(text.split()), k=ALL)
            columns = [self.column[name] for name in names]
            found[row, columns] = probabilities
        return found
