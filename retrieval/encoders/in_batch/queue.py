"""A queue of passages of steps before: more negatives than a batch holds.

contriever-2022, 3.1.3 (one queue, whose passages stand in for those of the batch, with a momentum
encoder); mhfn-2022, 3.3 (one a language, beside those of the batch). It lies in the memory of the
host; only what a batch needs of it goes to the device.
"""

import numpy as np
import torch

from core.console import say
from core.errors import InputError
from retrieval.encoders.batch import Batch
from retrieval.encoders.contrastive import Scored
from retrieval.encoders.material import ByNumber, Material


class Ring:
    """The last ``size`` vectors with their passages' numbers; new ones take the oldest's places."""

    def __init__(self, size: int):
        self.size = size
        self.vectors = torch.zeros(0, 0)
        self.ids = np.zeros(0, np.int64)
        self.next = 0  # the place of the oldest, once it is full

    def put(self, vectors: torch.Tensor, ids: np.ndarray) -> None:
        """Takes in vectors [passages, dimension], the oldest first."""
        vectors = vectors[-self.size :].float().cpu()
        ids = ids[-self.size :]
        room = self.size - len(self.ids)
        if room:
            before = self.vectors.reshape(len(self.ids), vectors.shape[1])
            self.vectors = torch.cat([before, vectors[:room]])
            self.ids = np.concatenate([self.ids, ids[:room]])
            vectors, ids = vectors[room:], ids[room:]
        places = (self.next + np.arange(len(ids))) % self.size
        self.vectors[torch.from_numpy(places)] = vectors
        self.ids[places] = ids
        self.next = int((self.next + len(ids)) % self.size)


class Queue(ByNumber):
    """See the module. With ``by: language`` a batch's passages go to the queue of its language.

    A batch of several languages uses and fills all of them; a query is scored with those of its
    own language alone. With ``alone`` the first step has nothing to tell apart, and learns
    nothing. Raises InputError for a queue that holds more than there are passages.
    """

    def __init__(self, material: Material):
        self.settings = material.settings.queue
        self.corpus = material.corpus
        self.sizes = self.sizes_of(material)
        self.rings: dict[str, Ring] = {}

    def sizes_of(self, material: Material) -> dict[str, int]:
        """Vectors that each queue holds: of a language no more than its passages, which is said."""
        size = self.settings.size
        counts = {}
        for language in self.corpus.languages:
            counts[language] = len(self.corpus.span(language))
        if self.settings.by == "all":
            counts = {"all": sum(counts.values())}
        if size > max(counts.values()):
            whose = "" if self.settings.by == "all" else " of a language"
            raise InputError(
                f"retrieval.encoders.{material.name}.queue.size: found {size}, but there are only "
                f"{max(counts.values())} passages{whose}, so it would hold some twice; "
                "lower it, or take queue out of in_batch"
            )
        small = [f"{language} ({count})" for language, count in counts.items() if count < size]
        if small:
            say(
                f"  note: {material.name}: queue.size {size} is more than the passages of "
                f"{', '.join(small)}; the queue of such a language holds as many as it has"
            )
        return {name: min(size, count) for name, count in counts.items()}

    def keys(self) -> None:
        """The model in training encodes the passages."""

    def score(self, scored: Scored, batch: Batch) -> None:
        """The queue's passages become negatives; with ``alone`` the batch's own are none."""
        if self.settings.alone:
            scored.negative.zero_()
        device = scored.queries.device
        for name in sorted(self.rings):  # in one order, also after a stop
            ring = self.rings[name]
            is_own = np.zeros(scored.negative.shape[0], bool)
            own = [self.settings.by == "all" or language == name for language in batch.languages]
            is_own[: len(own)] = own
            if not is_own.any():
                continue
            negative = np.repeat(is_own[:, None], len(ring.ids), 1)
            negative[batch.relevant_among(ring.ids)] = False
            passages = ring.vectors.to(device, scored.passages.dtype, non_blocking=True)
            scored.add(passages, ring.ids, torch.from_numpy(negative).to(device))

    def after(self, scored: Scored, batch: Batch) -> None:
        """The batch's passages, without gradient, in its order however many processes there are."""
        ids = batch.columns
        vectors = scored.passages.detach()[: len(ids)]
        for name, rows in self.by_queue(ids, batch.in_order()):
            ring = self.rings.setdefault(name, Ring(self.sizes[name]))
            chosen = torch.from_numpy(rows).to(vectors.device)
            ring.put(vectors[chosen], ids[rows])

    def by_queue(self, ids: np.ndarray, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Which of the passages go to which queue."""
        if self.settings.by == "all":
            return [("all", rows)]
        places, _ = self.corpus.places(ids[rows])
        parts = []
        for place in np.unique(places).tolist():
            parts.append((self.corpus.languages[place], rows[places == place]))
        return parts

    def state(self) -> dict[str, torch.Tensor]:
        """Vectors, numbers and the next place of each queue."""
        state = {}
        for name, ring in self.rings.items():
            state[f"{name}.vectors"] = ring.vectors
            state[f"{name}.ids"] = torch.from_numpy(ring.ids)
            state[f"{name}.next"] = torch.tensor(ring.next)
        return state

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """As they were."""
        self.rings = {}
        for key in state:
            name, part = key.rsplit(".", 1)
            if part == "next":
                ring = Ring(self.sizes[name])
                ring.vectors = state[f"{name}.vectors"]
                ring.ids = state[f"{name}.ids"].numpy()
                ring.next = int(state[key])
                self.rings[name] = ring
