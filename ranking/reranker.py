"""A trained cross-encoder for use from Python, without a configuration or a work folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from core import backbones
from core.errors import InputError
from ranking.pairs import PairTokenizer
from ranking.rerank import Scorer

LENGTHS = "continuum"  # the key of config.json where an exported model keeps its lengths


class Reranker:
    """A folder with a cross-encoder: one that ``ranking.export`` wrote, the ``model`` of a ranker's output, or any other with one label.

    ``backend``: torch or openvino (faster on a CPU). ``precision`` as in the configuration. Lengths in pieces, those that the model was
    trained with if it was exported, otherwise 64 and 256. Raises InputError for a folder that is none.
    """

    def __init__(
        self,
        folder: str | Path,
        backend: str = "torch",
        precision: str = "auto",
        query_length: int | None = None,
        max_length: int | None = None,
        batch_tokens: int = 16384,
    ):
        from ranking import backends, engine

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder}: holds no config.json; expected a folder with a cross-encoder, as python -m ranking.export writes it"
            )
        config = json.loads((folder / "config.json").read_text("utf-8"))
        labels = len(config.get("id2label", {0: ""}))
        if labels != 1:
            raise InputError(f"{folder}: has {labels} labels, expected a cross-encoder with one")
        known = {"query_length": 64, "max_length": 256, **config.get(LENGTHS, {})}
        tokenize = PairTokenizer(
            backbones.load_tokenizer(str(folder)),
            query_length or known["query_length"],
            max_length or known["max_length"],
        )
        forward, device, _ = backends.BACKENDS[backend](folder, engine.precision(precision))
        self.scorer = Scorer(forward, tokenize, batch_tokens, device)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """A logit a passage; a passage with a title is ``title + "\\n" + text``, as it was trained."""
        return self.scorer([query] * len(passages), passages).tolist()

    def rank(
        self, query: str, passages: Sequence[str], k: int | None = None
    ) -> list[tuple[int, float]]:
        """(place in ``passages``, logit), the best first, ties in the order given."""
        scores = self.score(query, passages)
        return [(i, scores[i]) for i in sorted(range(len(passages)), key=lambda i: -scores[i])[:k]]
