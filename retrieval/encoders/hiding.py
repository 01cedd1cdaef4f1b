"""Relevant passages that a training is not told of: what filters of false negatives should find."""

from typing import NamedTuple

from core.distributed import generator
from core.encoders import Encoder
from core.records import Qrels


class Known(NamedTuple):
    """Query id -> relevant passages: those that a training knows, and those that it doesn't."""

    relevant: dict[str, list[str]]
    hidden: dict[str, set[str]]


def known(qrels: Qrels, language: str, settings: Encoder) -> Known:
    """What an encoder's training knows of a language's judgments, of queries with a relevant one.

    Each query keeps one relevant passage, drawn at random. Of what the others have beyond it, the
    share ``settings.hidden`` is hidden, of a language as a whole.
    """
    relevant: dict[str, list[str]] = {}
    for qid, gains in qrels.items():
        docids = [docid for docid, gain in gains.items() if gain > 0]
        if docids:
            relevant[qid] = docids
    hidden: dict[str, set[str]] = {}
    if not settings.hidden:
        return Known(relevant, hidden)
    random = generator(settings.seed, 0, "hidden", language)
    spare = []
    for qid in sorted(relevant):
        docids = sorted(relevant[qid])
        for place in random.permutation(len(docids))[1:].tolist():
            spare.append((qid, docids[place]))
    count = round(settings.hidden * len(spare))
    for place in random.permutation(len(spare))[:count].tolist():
        qid, docid = spare[place]
        hidden.setdefault(qid, set()).add(docid)
        relevant[qid].remove(docid)
    return Known(relevant, hidden)
