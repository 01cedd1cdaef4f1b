"""Which of the mined candidates are a query's negatives in a batch."""

import numpy as np

from core.distributed import generator
from retrieval.encoders.material import ByNumber, Material
from retrieval.encoders.negatives.mining import pools_file
from retrieval.encoders.negatives.pools import Pools
from retrieval.encoders.pairs import Pairs

NONE = -1
"""Stands in for a negative where a query has no more."""


class Drawn(ByNumber):
    """Negatives of each example by ``draw``: of the candidates, and at random of the language.

    In memory are 8 bytes a candidate. Without a chain that was mined there are random ones alone.
    """

    def __init__(self, material: Material, pairs: Pairs):
        self.settings = material.settings.draw
        self.seed = material.settings.seed
        self.corpus = material.corpus
        self.pairs = pairs
        self.starts = np.zeros(sum(map(len, pairs.spans.values())) + 1, np.int64)
        self.ids = np.zeros(0, np.int64)
        if material.mined is not None:
            self.read(material)

    def read(self, material: Material) -> None:
        """The candidates of all examples: ``ids`` from ``starts[number]`` on."""
        assert material.mined is not None
        counts = np.zeros(len(self.starts) - 1, np.int64)
        parts = []
        for language, span in self.pairs.spans.items():
            live = Pools(pools_file(material.mined, language)).live()
            codes, qids = live.qid
            numbers = {qid: span.start + i for i, qid in enumerate(self.pairs.qids(language))}
            number_of = np.array([numbers.get(qid, NONE) for qid in qids], np.int64)
            number = number_of[codes] if len(codes) else np.zeros(0, np.int64)
            ids = self.passage_ids(language, live.docid, live.passage_language)
            is_ours = number != NONE  # the training may have fewer queries than were mined for
            number, ids = number[is_ours], ids[is_ours]
            order = np.argsort(number, kind="stable")
            counts += np.bincount(number, minlength=len(counts))
            parts.append(ids[order])
        self.starts[1:] = np.cumsum(counts)
        self.ids = np.concatenate(parts)

    def passage_ids(
        self,
        language: str,
        docid: tuple[np.ndarray, list[str]],
        passage_language: tuple[np.ndarray, list[str]],
    ) -> np.ndarray:
        """The numbers of passages, which may be of other languages than their queries'."""
        codes, docids = docid
        language_codes, others = passage_language
        ids = np.full(len(codes), NONE, np.int64)
        for code, other in enumerate(others):
            of_language = language_codes == code
            used, place = np.unique(codes[of_language], return_inverse=True)
            names = [docids[code] for code in used]
            ids[of_language] = self.corpus.ids(other or language, names)[place]
        return ids

    def draw(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """Passages, int64 [examples, draw.number]; NONE where an example has no more."""
        random = generator(self.seed, batch, "negatives")
        drawn = self.of_candidates(numbers, random)
        if self.settings.mined < 1:
            is_random = random.random(drawn.shape) >= self.settings.mined
            drawn = np.where(is_random, self.of_language(numbers, random), drawn)
        return drawn

    def of_candidates(self, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Different candidates of each example, the best or any."""
        count = self.settings.number
        starts = self.starts[numbers]
        counts = self.starts[numbers + 1] - starts
        most = max(int(counts.max(initial=0)), count)
        order = np.broadcast_to(np.arange(most), (len(numbers), most))
        is_none = order >= counts[:, None]
        if self.settings.order == "random":
            keys = random.random(order.shape)
            keys[is_none] = 2.0  # behind all others
            order = np.argsort(keys, axis=1)
        chosen = order[:, :count]
        is_none = np.arange(count) >= counts[:, None]
        places = np.where(is_none, 0, starts[:, None] + chosen)
        if not len(self.ids):
            return np.full(chosen.shape, NONE, np.int64)
        places = np.minimum(places, len(self.ids) - 1)
        return np.where(is_none, NONE, self.ids[places])

    def of_language(self, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Any passages of each example's language."""
        firsts = np.zeros(len(numbers), np.int64)
        sizes = np.zeros(len(numbers), np.int64)
        for language, span in self.pairs.spans.items():
            is_here = (numbers >= span.start) & (numbers < span.stop)
            passages = self.corpus.span(language)
            firsts[is_here] = passages.start
            sizes[is_here] = len(passages)
        share = random.random((len(numbers), self.settings.number))
        return firsts[:, None] + (share * sizes[:, None]).astype(np.int64)
