"""ANCE: the model in training searches the corpus for hard negatives, again and again.

negative-sampling-2024, 3.3; Xiong et al. 2021, 4. It happens between two steps, and all processes
share the work: a search beside the training, as Xiong's, would make a step's negatives depend on
how fast another process is. Passages are searched as they go through the model; their vectors are
not kept.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from core import distributed
from core.errors import InputError
from core.records import Query
from retrieval import dense
from retrieval.encoders.material import Material
from retrieval.encoders.negatives.drawn import Drawn
from retrieval.encoders.negatives.from_run import candidates_of
from retrieval.encoders.negatives.mining import Link, Mining, mine, run_link
from retrieval.encoders.pairs import Pairs

if TYPE_CHECKING:
    import torch

    from retrieval.encoders.encoding import Encode
    from retrieval.encoders.negatives.pools import Pool, Pools

AT_ONCE = 16384
"""Passages whose texts are in memory at once."""


def refresh(mining: Mining, language: str, before: "Pools | None") -> Iterator["Pool"]:
    """A link that begins a chain: what ``Refreshed`` has just found, less the relevant passages.

    Those are there as dropped ones with their scores, also where they were not among the best:
    then they stand behind them.
    """
    depth = mining.settings.refresh.depth
    relevant = mining.relevant(language)
    for qid, scores in mining.found[language]:
        yield qid, candidates_of(scores, relevant[qid], depth, "refresh")


class Refreshed:
    """Negatives of each example that the model found itself; ``Drawn`` tells which of them.

    ``chain``: the links that candidates go through, the first of them ``refresh``. Each refresh
    leaves their files in ``negatives/step-N`` of the training's folder. Raises InputError where
    one leaves no query a negative.
    """

    def __init__(self, material: Material, pairs: Pairs, mining: Mining, chain: Mapping[str, Link]):
        settings = material.settings
        self.material = material
        self.pairs = pairs
        self.mining = mining
        self.chain = chain
        self.every = settings.refresh.every  # steps
        if settings.refresh.unit == "epochs":
            examples = sum(map(len, pairs.spans.values()))
            per_step = settings.batch_size * settings.accumulation
            self.every *= max(1, examples // per_step)
        self.made_before = -1  # the step of the last refresh

    def draw(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        """Passages, int64 [examples, draw.number]; -1 where an example has no more."""
        return self.drawn.draw(numbers, batch)

    def waits(self, step: int) -> bool:
        """Before the first step, and every few steps."""
        return step % self.every == 0

    def begin(self, step: int, encode: "Encode") -> None:
        """Searches anew where it is time."""
        if not self.waits(step):
            return
        folder = self.folder(step)
        is_first = distributed.rank() == 0
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)  # of a training that was stopped behind it
        self.mining.folders = []
        for language in self.mining.languages:
            searched = Search(self.material, self.mining, language)
            searched.run(encode)
            if is_first:
                self.mining.found = {language: searched.found()}
                run_link(self.mining, refresh, language, folder / "1-refresh")
        if is_first:
            self.mine(step, folder)
        distributed.barrier()
        self.read(step)

    def mine(self, step: int, folder: Path) -> None:
        """The links behind the first, whose files are there. InputError without negatives."""
        try:
            mine(self.mining, self.chain, folder)
        except InputError as error:
            raise InputError(f"{error} (searched before step {step + 1}: {folder})") from None

    def folder(self, step: int) -> Path:
        """Of the refresh before a step."""
        return self.material.folder / "negatives" / f"step-{step}"

    def read(self, step: int) -> None:
        """Draws from what the refresh before ``step`` found, from now on."""
        last = f"{len(self.chain)}-{[*self.chain][-1]}"
        self.drawn = Drawn(replace(self.material, mined=self.folder(step) / last), self.pairs)
        self.made_before = step

    def state(self) -> "dict[str, torch.Tensor]":
        """Which refresh the negatives are of; the files are beside it."""
        import torch

        return {"made_before": torch.tensor(self.made_before)}

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """Reads them again."""
        self.read(int(state["made_before"]))


class Judged(NamedTuple):
    """The relevant passages of a language's queries, an entry for each of both."""

    query: np.ndarray  # int64: its place among them
    row: np.ndarray  # int64: of the passage in the language's store
    score: np.ndarray  # float32


class Search:
    """The training queries of a language against all its passages, by inner product, exactly.

    All processes run it, each with a part of the passages. Queries are those with a relevant
    passage.
    """

    def __init__(self, material: Material, mining: Mining, language: str):
        self.corpus = material.corpus
        self.span = material.corpus.span(language)
        self.store = material.corpus.stores[language]
        self.depth = material.settings.refresh.depth
        train = mining.task.config.splits.train
        relevant = mining.relevant(language)
        self.queries: list[Query] = []
        for query in mining.task.queries(language, train):
            if query.qid in relevant:
                self.queries.append(query)
        places, docids = [], []
        for place, query in enumerate(self.queries):
            for docid in sorted(relevant[query.qid]):
                places.append(place)
                docids.append(docid)
        rows = self.store.rows(docids, strict=False)
        is_there = rows >= 0
        of_query = np.array(places, np.int64)[is_there]
        scores = np.zeros(len(of_query), np.float32)
        self.judged = Judged(of_query, rows[is_there], scores)
        self.scores = np.empty((len(self.queries), 0), np.float32)
        self.rows = np.empty((len(self.queries), 0), np.int64)

    def run(self, encode: "Encode") -> None:
        """Leaves the best of each query in ``scores`` and ``rows`` [queries, depth], on all."""
        if not self.queries:
            return
        queries = encode.texts([query.text for query in self.queries], "query")
        rank, world = distributed.rank(), distributed.world_size()
        devices = dense.search_devices()
        device = devices[rank % len(devices)]
        share = -(-len(self.span) // world)  # passages of a process, at most
        size = min(share, dense.BLOCK)
        for offset in range(0, share, size):
            start = min(rank * share + offset, len(self.span))
            stop = min(start + size, (rank + 1) * share, len(self.span))
            vectors = self.encoded(range(start, stop), size, encode)
            if len(vectors):
                block = dense.in_fp32(vectors, 0, len(vectors), device)
                scores, rows = dense.nearest(block, queries, self.depth)
                self.take(scores, rows + start)
                self.score_judged(queries, vectors, start)
        self.share_out()

    def encoded(self, rows: range, size: int, encode: "Encode") -> np.ndarray:
        """Vectors of some passages, of at most ``size`` on any process; all encode as often."""
        parts = []
        for start in range(0, size, AT_ONCE):
            part = rows[start : start + AT_ONCE]
            ids = self.span.start + np.arange(part.start, part.stop)
            parts.append(encode.own(self.corpus.texts(ids), "passage"))
        return np.concatenate(parts)

    def take(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Keeps the best of what there is and of new hits."""
        before = (self.scores, self.rows)
        self.scores, self.rows = dense.merged(before, (scores, rows), self.depth)

    def score_judged(self, queries: np.ndarray, vectors: np.ndarray, start: int) -> None:
        """The scores of relevant passages among those from row ``start`` on."""
        places, rows, scores = self.judged
        inside = np.flatnonzero((rows >= start) & (rows < start + len(vectors)))
        products = queries[places[inside]] * vectors[rows[inside] - start]
        scores[inside] = products.sum(1)

    def share_out(self) -> None:
        """Gives all processes what each has found."""
        from retrieval.encoders.encoding import everywhere

        world = distributed.world_size()
        if world == 1:
            return
        # A process of few passages has fewer hits: -1 stands for none
        missing = self.depth - self.scores.shape[1]
        own_scores = np.pad(self.scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        own_rows = np.pad(self.rows, ((0, 0), (0, missing)), constant_values=-1)
        count = len(self.queries)
        self.scores = np.empty((count, self.depth), np.float32)
        self.rows = np.empty((count, self.depth), np.int64)
        for first in range(0, count, dense.MERGED):
            part = slice(first, first + dense.MERGED)
            total = len(own_scores[part]) * world
            scores = everywhere(own_scores[part], total)
            rows = everywhere(own_rows[part], total)
            best = (scores[::world], rows[::world])
            for other in range(1, world):
                hits = (scores[other::world], rows[other::world])
                best = dense.merged(best, hits, self.depth)
            self.scores[part], self.rows[part] = best
        # Each relevant passage is one process's, and 0 elsewhere
        of_all = everywhere(self.judged.score[None], world)
        self.judged = self.judged._replace(score=of_all.sum(0))

    def found(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Each query with the scores of its best passages and of all relevant ones."""
        bounds = np.searchsorted(self.judged.query, np.arange(len(self.queries) + 1))
        hits = dense.hits_of(self.store, self.queries, self.rows, self.scores)
        for place, (qid, scores) in enumerate(hits):
            for number in range(bounds[place], bounds[place + 1]):
                docid = self.store.docid(int(self.judged.row[number]))
                scores.setdefault(docid, float(self.judged.score[number]))
            yield qid, scores
