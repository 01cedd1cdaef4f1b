"""Scoring pairs: batches by token budget in order of length, fp32 logits; what is scored is kept (``ranking.scores``), so a stopped run
goes on and a deeper one scores the new pairs alone."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from core import distributed
from core.batches import token_batches
from core.console import progress, say
from core.errors import InputError
from core.records import Run
from core.runs import append_below, ranked
from ranking.pairs import PairTokenizer
from ranking.scores import Scores, keys

CHUNK = 8192  # pairs whose token ids are in memory, sorted by length
EVERY = 20.0  # seconds between two notes of what is scored

Texts = Callable[
    [Sequence[tuple[str, str]]], tuple[list[str], list[str]]
]  # (query id, docid) pairs -> query texts, passage texts


class Scorer:
    """Texts to logits. ``forward`` takes padded inputs on ``device`` and gives [pairs]; ``batch_tokens``, pairs times the longest, is
    halved when memory runs out. ``identity`` names model, tokenizer and number format for the score store."""

    def __init__(
        self,
        forward: Callable[[dict], "torch.Tensor"],
        tokenize: PairTokenizer,
        batch_tokens: int,
        device: str = "cpu",
        identity: str = "",
    ):  # noqa: F821
        self.forward, self.tokenize, self.batch_tokens, self.device, self.identity = (
            forward,
            tokenize,
            batch_tokens,
            device,
            identity,
        )

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """fp32 [pairs], in the order of the pairs."""
        scores = np.empty(len(queries), np.float32)
        for rows, found in self.batches(queries, passages):
            scores[rows] = found
        return scores

    def batches(
        self, queries: Sequence[str], passages: Sequence[str]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """(row numbers, their logits), the longest pairs first: what does not fit into memory shows at once."""
        import torch

        rows = self.tokenize(queries, passages)
        left = list(range(len(rows)))
        while left:
            for batch in token_batches(
                [len(rows[i]["input_ids"]) for i in left], self.batch_tokens
            ):
                chosen = [left[i] for i in batch]
                try:
                    with torch.inference_mode():
                        found = (
                            self.forward(self.tokenize.pad([rows[i] for i in chosen], self.device))
                            .float()
                            .cpu()
                            .numpy()
                        )
                except RuntimeError as error:
                    self.back_off(error, len(chosen), len(rows[chosen[0]]["input_ids"]))
                    break
                yield chosen, found
                for i in chosen:
                    rows[i] = None
            left = [i for i in left if rows[i] is not None]

    def back_off(self, error: RuntimeError, pairs: int, longest: int) -> None:
        """Halves the budget where memory ran out; any other error goes on."""
        import torch

        if not out_of_memory(error):
            raise error
        if pairs == 1:
            raise InputError(
                f"a single pair of {longest} tokens does not fit into memory; lower max_length, or free memory"
            ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.batch_tokens = max(longest, min(self.batch_tokens, pairs * longest) // 2)
        say(
            f"  note: memory ran out at {pairs} pairs of {longest} tokens; going on with ranking.rerank.batch_tokens={self.batch_tokens}"
        )


def out_of_memory(error: RuntimeError) -> bool:
    """On a GPU, or in torch's allocator on a CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def score_pairs(
    scorer: Scorer, store: Scores, pairs: Sequence[tuple[str, str]], texts: Texts, what: str
) -> np.ndarray:
    """Scores of (query id, docid) ``pairs``, from the store as far as it has them. Each process scores its own chunks, and every one gets all."""
    wanted = [keys(*texts(pairs[start : start + CHUNK])) for start in range(0, len(pairs), CHUNK)]
    with progress(None, len(pairs), f"score {what}", "pair") as bar:
        for number in range(distributed.rank(), len(wanted), distributed.world_size()):
            part = pairs[number * CHUNK : (number + 1) * CHUNK]
            missing = np.flatnonzero(np.isnan(store.get(wanted[number])))
            bar.update(len(part) - len(missing))
            score_missing(
                scorer, store, [part[i] for i in missing], wanted[number][missing], texts, what, bar
            )
    distributed.barrier()
    store.refresh()
    return np.concatenate([np.empty(0, np.float32), *map(store.get, wanted)])


def score_missing(
    scorer: Scorer,
    store: Scores,
    pairs: Sequence[tuple[str, str]],
    wanted: np.ndarray,
    texts: Texts,
    what: str,
    bar,
) -> None:
    """Scores ``pairs`` into the store, a segment every EVERY seconds and at the end, also where it is stopped."""
    done: list[int] = []
    values: list[float] = []
    noted = time.monotonic()

    def note():
        if done:
            store.put(wanted[done], np.array(values, np.float32))
            done.clear(), values.clear()

    try:
        for rows, found in scorer.batches(*texts(pairs)) if pairs else ():
            if not np.isfinite(found).all():
                qid, docid = pairs[rows[int(np.argmin(np.isfinite(found)))]]
                raise InputError(
                    f"{what}: the score of query {qid} and passage {docid} is not finite; train or score with precision=fp32"
                )
            done += rows
            values += found.tolist()
            bar.update(len(rows))
            if time.monotonic() - noted > EVERY:
                note()
                noted = time.monotonic()
    finally:
        note()


def candidate_pairs(run: Run, depth: int) -> list[tuple[str, str]]:
    return [(qid, docid) for qid, scores in run.items() for docid, _ in ranked(scores)[:depth]]


def reranked(candidates: Run, pairs: Sequence[tuple[str, str]], scores: np.ndarray) -> Run:
    """The scored block of each query by its scores, the rest of its candidates under it in their order."""
    blocks: Run = {qid: {} for qid in candidates}
    for (qid, docid), score in zip(pairs, scores.tolist()):
        blocks[qid][docid] = score
    return {
        qid: append_below(blocks[qid], (d for d, _ in ranked(scores)))
        for qid, scores in candidates.items()
    }
