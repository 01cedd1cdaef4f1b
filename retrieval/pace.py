"""How fast the dense source's encoder is on this machine."""

from itertools import islice

from core.errors import InputError
from core.pace import Measurement, Pace, peaks, timed
from core.passages import document_text
from core.task import Task
from retrieval import dense, retrievers

SAMPLED = 64  # passages, the first of a language


def measurements(task: Task) -> list[Measurement]:
    """Encoding, where the configuration has a dense source."""
    if "dense" not in task.config.retrieval.sources:
        return []
    documents = task.collection.documents(task.languages[0])
    try:
        texts = [document_text(document) for document in islice(documents, SAMPLED)]
    except InputError:  # the step that reads it says what is wrong
        return []
    spec, known_by = retrievers.untrained_spec(task), retrievers.encoding_known_by(task)
    return [Measurement(f"encoding by {spec.name}", known_by, measure, (spec, texts))]


def measure(spec: dense.EncoderSpec, texts: list[str]) -> Pace:
    """In a process of its own."""
    encoder = spec.load()
    return Pace(timed(lambda count: encoder.encode_passages(texts[:count]), len(texts)), **peaks())
