"""How fast cross-encoders score and learn on this machine."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import backbones, distributed, machine
from core.pace import Measurement, Pace, known, peaks, timed
from core.settings import Ranker
from core.task import Task, once
from ranking import backends, rankers, trainings

if TYPE_CHECKING:
    import torch

FILLED = 0.8  # of max_length, by a pair on average
MOST = 256  # pairs at once while measuring


def scoring_known_by(task: Task, name: str) -> dict[str, Any]:
    """What decides how fast a ranker scores."""
    return {
        "of": "scoring",
        **body_of(task, name),
        "backend": task.config.ranking.rerank.backend,
    }


def training_known_by(task: Task, name: str) -> dict[str, Any]:
    """What decides how fast a ranker learns: the body, and what of it is trained."""
    ranker = task.config.ranking.trainings[name]
    how = {"freeze_embeddings", "train_layers", "gradient_checkpointing", "attention", "dropouts"}
    return {
        "of": "training",
        **body_of(task, name),
        **ranker.model_dump(include={*how, "lora"}),
        "micro_batch": micro_batch(ranker),
    }


def body_of(task: Task, name: str) -> dict[str, Any]:
    """Whose weights, how many layers, tokens of a pair and number format."""
    first = rankers.origin(task, name)
    return {
        "weights": first.start or first.model or first.backbone,
        "layers": first.layers,
        "tokens": round(FILLED * task.config.ranking.trainings[name].max_length),
        "precision": trainings.number_format(task, name),
    }


def micro_batch(ranker: Ranker) -> int:
    """Pairs that a process of this machine learns from at once."""
    return max(1, ranker.batch_size // max(1, machine.gpus()))


@once
def scoring(task: Task, name: str) -> Pace | None:
    """Of a pair, where it was measured."""
    return known(task.config.work, scoring_known_by(task, name))


@once
def training(task: Task, name: str) -> Pace | None:
    """Of a pair's clean pass forward and backward, where it was measured."""
    return known(task.config.work, training_known_by(task, name))


def measurements(task: Task, learn: Iterable[str], score: Iterable[str]) -> list[Measurement]:
    """Of the rankers that are to be trained, and of those that are to score."""
    wanted = []
    for name in learn:
        known_by = training_known_by(task, name)
        where = backbones.source(known_by["weights"], task.config.models)
        ranker = task.config.ranking.trainings[name]
        arguments = (where, known_by, ranker, micro_batch(ranker))
        wanted.append(Measurement(f"training of {name}", known_by, measure_training, arguments))
    for name in score:
        known_by = scoring_known_by(task, name)
        where = backbones.source(known_by["weights"], task.config.models)
        wanted.append(
            Measurement(f"scoring by {name}", known_by, measure_scoring, (where, known_by))
        )
    return wanted


def measure_scoring(where: str, known_by: dict[str, Any]) -> Pace:
    """In a process of its own: batches of made-up pairs. For int8 it is that of OpenVINO."""
    import torch

    number_format = known_by["precision"]
    backend = "openvino" if known_by["backend"] == "int8" else known_by["backend"]
    body = backbones.load_cross_encoder(where, known_by["layers"])
    tokenizer = backbones.load_tokenizer(where)
    with tempfile.TemporaryDirectory() as folder:
        body.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        forward, device, _ = backends.BACKENDS[backend](Path(folder), number_format)
    inputs = Inputs(body.config.vocab_size, known_by["tokens"], tokenizer, device)
    del body

    def once(count: int) -> object:
        with torch.inference_mode():
            return forward(inputs.of(count)).cpu()

    return Pace(timed(once, MOST), **peaks())


def measure_training(where: str, known_by: dict[str, Any], ranker: Ranker, most: int) -> Pace:
    """In a process of its own: clean passes of made-up pairs by plain torch, and AdamW's step.

    Word embeddings whose vocabulary is going to be pruned count as frozen: what is left of them
    costs little.
    """
    import torch

    from ranking.model import CrossEncoder

    number_format = known_by["precision"]
    body = backbones.load_cross_encoder(where, known_by["layers"], ranker.attention, number_format)
    trainings.make_ready(body, ranker, where)
    if ranker.freeze_embeddings or ranker.prune_vocabulary:
        body.get_input_embeddings().requires_grad_(False)
    device = distributed.device()
    model = CrossEncoder(body, ranker.dropouts).to(device, backbones.dtype(number_format)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    tokenizer = backbones.load_tokenizer(where)
    inputs = Inputs(body.config.vocab_size, known_by["tokens"], tokenizer, device)

    def once(count: int) -> object:
        loss = model(**inputs.of(count)).mean()
        loss.backward()
        return loss.item()

    def step(_count: int) -> None:
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = timed(once, most)
    return Pace(seconds, step_seconds=timed(step, 1), **peaks())


class Inputs:
    """Made-up pairs of one length: any pieces, nothing padded."""

    def __init__(self, vocabulary: int, tokens: int, tokenizer: Any, device: str):
        self.vocabulary, self.tokens, self.device = vocabulary, tokens, device
        self.has_types = "token_type_ids" in tokenizer.model_input_names

    def of(self, count: int) -> dict[str, "torch.Tensor"]:
        """Int64 [count, tokens] each."""
        import torch

        shape = (count, self.tokens)
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(self.vocabulary // 2, self.vocabulary, shape, generator=random)
        inputs = {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.int64)}
        if self.has_types:
            inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
        return {name: values.to(self.device) for name, values in inputs.items()}
