"""Scoring pairs: batches by token budget in order of length, fp32 logits.

What is scored is kept (``ranking.scores``), so a stopped run goes on and a deeper one scores the
new pairs alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core import distributed
from core.batches import token_batches
from core.console import progress, say
from core.errors import InputError
from core.records import Run
from core.runs import append_below, ranked
from ranking.pairs import PairTokenizer
from ranking.scores import Scores, keys
from training.guards import out_of_memory

if TYPE_CHECKING:
    import torch

CHUNK = 8192  # pairs whose token ids are in memory, sorted by length
EVERY = 20.0  # seconds between two notes of what is scored

Pairs = Sequence[tuple[str, Any]]
"""(query id, docid) each; a teacher's docids are objects that know their pair."""

FIRST_STAGE = "continuum_first_stage"
"""The key of config.json where a ranker that adds to the hybrid's scores keeps their weight."""

Texts = Callable[[Pairs], tuple[list[str], list[str]]]
"""From pairs to query texts and passage texts."""


class Scorer:
    """Texts to logits.

    ``forward`` takes padded inputs on ``device`` and gives [pairs]; ``batch_tokens``, pairs times
    the longest, is halved when memory runs out. ``identity`` names model, tokenizer and number
    format for the score store. ``first_stage``: the weight of the hybrid's scores, which
    ``with_first_stage`` adds to the logits.
    """

    def __init__(
        self,
        forward: "Callable[[dict], torch.Tensor]",
        tokenize: PairTokenizer,
        batch_tokens: int,
        device: str = "cpu",
        identity: str = "",
        first_stage: float = 0.0,
    ):
        self.forward = forward
        self.tokenize = tokenize
        self.batch_tokens = batch_tokens
        self.device = device
        self.identity = identity
        self.first_stage = first_stage

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """fp32 [pairs], in the order of the pairs."""
        scores = np.empty(len(queries), np.float32)
        for places, logits in self.batches(queries, passages):
            scores[places] = logits
        return scores

    def batches(
        self, queries: Sequence[str], passages: Sequence[str]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """(places of pairs, their logits), the longest pairs first.

        So what does not fit into memory shows at once.
        """
        rows = self.tokenize(queries, passages)
        lengths = [len(row["input_ids"]) for row in rows]
        left = list(range(len(rows)))
        while left:
            done: set[int] = set()
            lengths_left = [lengths[place] for place in left]
            for batch in token_batches(lengths_left, self.batch_tokens):
                places = [left[i] for i in batch]
                try:
                    logits = self.logits([rows[place] for place in places])
                except RuntimeError as error:
                    self.back_off(error, len(places), lengths[places[0]])
                    break  # what is left is batched anew
                yield places, logits
                done.update(places)
            left = [place for place in left if place not in done]

    def logits(self, rows: Sequence[dict[str, list[int]]]) -> np.ndarray:
        """fp32 [rows] of tokenised pairs, in one batch."""
        import torch

        with torch.inference_mode():
            inputs = self.tokenize.pad(rows, self.device)
            return self.forward(inputs).float().cpu().numpy()

    def back_off(self, error: RuntimeError, pairs: int, longest: int) -> None:
        """Halves the budget where memory ran out; any other error goes on.

        Raises InputError where a single pair is too much.
        """
        import torch

        if not out_of_memory(error):
            raise error
        if pairs == 1:
            raise InputError(
                f"a single pair of {longest} tokens does not fit into memory; "
                "lower max_length, or free memory"
            ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.batch_tokens = max(longest, min(self.batch_tokens, pairs * longest) // 2)
        say(
            f"  note: memory ran out at {pairs} pairs of {longest} tokens; "
            f"going on with ranking.rerank.batch_tokens={self.batch_tokens}"
        )


def score_pairs(scorer: Scorer, store: Scores, pairs: Pairs, texts: Texts, what: str) -> np.ndarray:
    """Scores of pairs, fp32 in their order, from the store as far as it has them.

    Each process scores its own chunks, and every one gets all. ``what`` is said beside the bar and
    in errors.
    """
    wanted = []  # the keys of each chunk
    for start in range(0, len(pairs), CHUNK):
        queries, passages = texts(pairs[start : start + CHUNK])
        wanted.append(keys(queries, passages))
    with progress(None, len(pairs), f"score {what}", "pair") as bar:
        for number in range(distributed.rank(), len(wanted), distributed.world_size()):
            score_chunk(scorer, store, chunk_of(pairs, number), wanted[number], texts, what, bar)
    distributed.barrier()
    store.refresh()
    scores = [np.empty(0, np.float32)]  # there may be no pairs at all
    for chunk_keys in wanted:
        scores.append(store.get(chunk_keys))
    return np.concatenate(scores)


def chunk_of(pairs: Pairs, number: int) -> Pairs:
    """The CHUNK pairs with a number; there may be none."""
    return pairs[number * CHUNK : (number + 1) * CHUNK]


def score_chunk(
    scorer: Scorer,
    store: Scores,
    chunk: Pairs,
    wanted: np.ndarray,
    texts: Texts,
    what: str,
    bar: Any,
) -> None:
    """Scores what the store lacks of ``chunk``, whose keys are ``wanted``."""
    missing = np.flatnonzero(np.isnan(store.get(wanted)))
    left = [chunk[place] for place in missing.tolist()]
    bar.update(len(chunk) - len(left))
    score_missing(scorer, store, left, wanted[missing], texts, what, bar)


def score_missing(
    scorer: Scorer,
    store: Scores,
    pairs: Pairs,
    wanted: np.ndarray,
    texts: Texts,
    what: str,
    bar: Any,
) -> None:
    """Scores ``pairs`` into the store, under the keys ``wanted``.

    In a segment every EVERY seconds and one at the end, also where it is stopped. Raises
    InputError for a score that is not finite.
    """
    if not pairs:
        return
    done: list[int] = []  # places of the pairs that are scored and not yet put
    values: list[float] = []
    noted = time.monotonic()

    def note() -> None:
        if done:
            store.put(wanted[done], np.array(values, np.float32))
            done.clear()
            values.clear()

    try:
        queries, passages = texts(pairs)
        for places, logits in scorer.batches(queries, passages):
            refuse_not_finite(logits, [pairs[place] for place in places], what)
            done += places
            values += logits.tolist()
            bar.update(len(places))
            if time.monotonic() - noted > EVERY:
                note()
                noted = time.monotonic()
    finally:
        note()


def refuse_not_finite(logits: np.ndarray, pairs: Pairs, what: str) -> None:
    """Raises InputError that names the first pair whose logit is no number."""
    finite = np.isfinite(logits)
    if not finite.all():
        qid, docid = pairs[int(np.argmin(finite))]
        raise InputError(
            f"{what}: the score of query {qid} and passage {docid} is not finite; "
            "train or score with precision=fp32"
        )


def candidate_pairs(run: Run, depth: int) -> list[tuple[str, str]]:
    """(query id, docid) of the ``depth`` best passages of each query, the best first."""
    pairs = []
    for qid, scores in run.items():
        for docid, _ in ranked(scores)[:depth]:
            pairs.append((qid, docid))
    return pairs


def with_first_stage(
    weight: float, hybrid: Run, pairs: Sequence[tuple[str, str]], logits: np.ndarray
) -> np.ndarray:
    """fp32 [pairs]: what a ranker orders passages by, its logits unless it adds to the hybrid.

    ``weight``: of the hybrid's scores.
    """
    if not weight:
        return logits
    added = np.array([hybrid[qid][docid] for qid, docid in pairs], np.float32)
    return logits + np.float32(weight) * added


def reranked(candidates: Run, pairs: Sequence[tuple[str, str]], scores: np.ndarray) -> Run:
    """The candidates of each query, those of ``pairs`` by their scores.

    The others follow under them in their order.
    """
    blocks: Run = {qid: {} for qid in candidates}
    for (qid, docid), score in zip(pairs, scores.tolist(), strict=True):
        blocks[qid][docid] = score
    run: Run = {}
    for qid, before in candidates.items():
        in_order = [docid for docid, _ in ranked(before)]
        run[qid] = append_below(blocks[qid], in_order)
    return run
