"""Scoring pairs: chunks of pairs, batches by token budget in order of length, fp32 logits; resumable and sharded over processes."""
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core import distributed
from core.distributed import progress
from core.errors import InputError
from core.records import Run
from core.runs import append_below, ranked
from ranking.pairs import PairTokenizer
from retrieval.dense import token_batches

CHUNK = 8192        # pairs between two notes of progress; also the pairs whose token ids are in memory


def score_pairs(forward: Callable[[dict], "torch.Tensor"], tokenize: PairTokenizer, queries: Sequence[str], passages: Sequence[str],  # noqa: F821
                batch_tokens: int, device, bar=None) -> np.ndarray:
    """Logits, fp32 [pairs], in the order of the pairs. ``forward`` takes padded inputs and gives [pairs]."""
    import torch

    rows = tokenize(queries, passages)
    scores = np.empty(len(rows), np.float32)
    with torch.inference_mode():
        for batch in token_batches([len(r["input_ids"]) for r in rows], batch_tokens):
            scores[batch] = forward(tokenize.pad([rows[i] for i in batch], device)).float().cpu().numpy()
            if bar is not None:
                bar.update(len(batch))
    return scores


def rerank(forward, tokenize: PairTokenizer, pairs: Sequence[tuple[str, str]], texts: Callable[[Sequence[tuple[str, str]]], tuple[list[str], list[str]]],
           batch_tokens: int, device, folder: Path, what: str) -> np.ndarray:
    """Scores of (query id, docid) ``pairs``; ``texts`` gives their query and passage texts. Finished chunks lie in ``folder`` and are
    not scored again; each process takes its own chunks, and every one gets all scores."""
    chunks = list(range(0, len(pairs), CHUNK))
    with progress(None, len(pairs), f"rerank {what}", "pair") as bar:
        for start in chunks[distributed.rank()::distributed.world_size()]:
            part, target = pairs[start:start + CHUNK], folder / f"chunk-{start}.npy"
            if target.exists():
                bar.update(len(part))
                continue
            scores = score_pairs(forward, tokenize, *texts(part), batch_tokens, device, bar)
            if not np.isfinite(scores).all():
                qid, docid = part[int(np.argmin(np.isfinite(scores)))]
                raise InputError(f"rerank {what}: the score of query {qid} and passage {docid} is not finite; train or score with precision=fp32")
            temporary = target.with_suffix(".part.npy")
            np.save(temporary, scores)
            temporary.rename(target)
    distributed.barrier()
    scores = np.concatenate([np.empty(0, np.float32), *(np.load(folder / f"chunk-{start}.npy") for start in chunks)])
    distributed.barrier()       # the caller may take the chunks away: nobody reads them any more
    return scores


def candidate_pairs(run: Run, depth: int) -> list[tuple[str, str]]:
    return [(qid, docid) for qid, scores in run.items() for docid, _ in ranked(scores)[:depth]]


def reranked(candidates: Run, pairs: Sequence[tuple[str, str]], scores: np.ndarray) -> Run:
    """The scored block of each query by its scores, the rest of its candidates under it in their order."""
    blocks: Run = {qid: {} for qid in candidates}
    for (qid, docid), score in zip(pairs, scores.tolist()):
        blocks[qid][docid] = score
    return {qid: append_below(blocks[qid], (d for d, _ in ranked(scores))) for qid, scores in candidates.items()}
