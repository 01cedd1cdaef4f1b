"""A cross-encoder for use from Python, without a configuration or a work folder."""

from collections.abc import Sequence
from pathlib import Path

from core import backbones, embedded_ranker
from core.cross_encoders import refuse_other_models
from core.embedded_ranker import LENGTHS
from core.errors import InputError
from core.text import json_file
from ranking import backends
from ranking.pairs import PairTokenizer
from ranking.rerank import Scorer
from training import engine

DEFAULT_LENGTHS = {"query_length": 64, "max_length": 256}  # of a model without that key


class Reranker:
    """A folder with a cross-encoder as a scorer of texts.

    One that ``ranking.export`` wrote, the ``model`` of a ranker's output, or any other with one
    label; or ``embedded-ranker``, which is unpacked under ``models``. ``backend``: torch or
    openvino (faster on a CPU). ``precision`` as in the configuration. Lengths in pieces: those that
    the model was trained with if it was exported, otherwise 64 and 256. Raises InputError for a
    folder that is none, and for fp16 where the model overflows in it.
    """

    def __init__(
        self,
        folder: str | Path,
        backend: str = "torch",
        precision: str = "auto",
        query_length: int | None = None,
        max_length: int | None = None,
        batch_tokens: int = 16384,
        models: str | Path = "work/models",
    ):
        if folder == embedded_ranker.NAME:
            folder = embedded_ranker.folder(Path(models))
        folder = Path(folder)
        lengths = {**DEFAULT_LENGTHS, **model_config(folder).get(LENGTHS, {})}
        tokenize = PairTokenizer(
            backbones.load_tokenizer(str(folder)),
            query_length or lengths["query_length"],
            max_length or lengths["max_length"],
        )
        number_format = engine.precision(precision, half=backends.bears_half(folder))
        forward, device, _ = backends.BACKENDS[backend](folder, number_format)
        self.scorer = Scorer(forward, tokenize, batch_tokens, device)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """A logit a passage; a title stands on a line of its own before the text."""
        return self.scorer([query] * len(passages), passages).tolist()

    def rank(
        self, query: str, passages: Sequence[str], k: int | None = None
    ) -> list[tuple[int, float]]:
        """(place in ``passages``, logit), the best first, ties in the order given."""
        scores = self.score(query, passages)
        order = sorted(range(len(passages)), key=lambda place: -scores[place])
        return [(place, scores[place]) for place in order[:k]]


def model_config(folder: Path) -> dict:
    """The config.json of a cross-encoder with one label.

    Raises InputError for a folder without one, and where ``refuse_other_models`` does.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            f"{folder}: holds no config.json; expected a folder with a cross-encoder, "
            "as python -m ranking.export writes it"
        )
    config = json_file(file)
    refuse_other_models(folder, config)
    return config
