"""What a training is worth: this project's ranker beside sentence-transformers' trainer.

    python -m benchmarks.training_quality CONFIG RANKER [key=value …] [--seeds 0 1]
                                          [--loss LambdaLoss ListNetLoss …]

Same body, groups, pairs a step, steps, lengths, number format, rate (the body's) and candidates;
word embeddings frozen in both where the ranker's are. The ranker is trained by its own
configuration, once a seed; what is trained already is found. nDCG@10 is on as many dev queries a
language as ranking.rerank.dev_queries says; the difference to each of their losses is tested over
the queries, each with its mean over the seeds.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import backbones
from core.artefacts import TrainedRanker
from core.building import run_steps
from core.config import from_arguments
from core.console import say
from core.errors import InputError, exit_with_message
from core.evaluate import evaluate, mean_over_languages, randomisation_test
from core.settings import Config, Ranker
from core.task import Task
from ranking import gates, rank, rankers, trainings

LOSSES = ("LambdaLoss", "ListNetLoss", "PListMLELoss", "BinaryCrossEntropyLoss")

Values = np.ndarray
"""nDCG@10 of each dev query."""


class Judges:
    """The dev queries of a ranker."""

    def __init__(self, task: Task, ranker: Ranker):
        self.sample = gates.judges(task, ranker)
        self.languages: list[str] = []  # of each query
        for language, sampled in self.sample.chosen.items():
            self.languages += [language] * len(sampled.qrels)

    def __call__(self, scorer: Any) -> Values:
        """Of the order that a scorer gives their candidates."""
        runs = self.sample.rerank(scorer)
        values: list[float] = []
        for language, sampled in self.sample.chosen.items():
            by_query = evaluate(runs[language], sampled.qrels, ["nDCG@10"])["nDCG@10"]
            values += [by_query[qid] for qid in sampled.qrels]
        return np.array(values)


def ours(task: Task, name: str) -> Any:
    """The ranker, trained by its configuration, as a scorer."""
    steps = rank.plan(task)
    trained = steps[TrainedRanker(name).step_name]
    run_steps([trained], task.config.folder, some=True)
    return rankers.load(task, name, trained)


class Theirs:
    """A ``CrossEncoder`` that sentence-transformers trained, in the place of a scorer."""

    first_stage = 0.0

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        pairs = list(zip(queries, passages, strict=True))
        return self.model.predict(pairs, batch_size=32, show_progress_bar=False)


def theirs(task: Task, name: str, loss: str, seed: int) -> Theirs:
    """The same body taught the same groups by ``CrossEncoderTrainer``; bf16 by autocast."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )

    ranker = task.config.ranking.trainings[name]
    torch.manual_seed(seed)
    model = CrossEncoder(
        backbones.source(ranker.start or ranker.backbone, task.config.models),
        num_labels=1,
        max_length=ranker.max_length,
    )
    for parameter_name, parameter in model.named_parameters():
        if ranker.freeze_embeddings and "word_embeddings" in parameter_name:
            parameter.requires_grad_(False)
    pointwise = loss == "BinaryCrossEntropyLoss"
    with tempfile.TemporaryDirectory() as folder:
        columns = columns_of(task, ranker, pointwise, Path(folder))
        arguments = CrossEncoderTrainingArguments(
            output_dir=folder,
            max_steps=ranker.steps,
            per_device_train_batch_size=ranker.batch_size
            // (1 if pointwise else ranker.group_size),
            gradient_accumulation_steps=ranker.accumulation,
            learning_rate=ranker.learning_rate,
            warmup_steps=round(ranker.warmup * ranker.steps),
            weight_decay=ranker.weight_decay,
            bf16=trainings.number_format(task, name) == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            seed=seed,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=getattr(losses, loss)(model),
        )
        trainer.train()
    return Theirs(model.eval())


def columns_of(task: Task, ranker: Ranker, pointwise: bool, folder: Path) -> dict[str, list]:
    """The groups of the ranker's steps as sentence-transformers wants them, labels beside."""
    source = rankers.task_of(task, ranker)
    data = trainings.training_data(source, ranker, folder)
    text_of = trainings.PairTexts(source)
    columns: dict[str, list] = {"query": [], "passage": [], "label": []}
    for step in range(ranker.steps):
        part = data.part(step)
        for sample in part.samples:
            pairs = data.draws[part.draw].pairs(sample)
            texts = [text_of(pair) for pair in pairs]
            passages = [passage for _, passage in texts]
            labels = [pair.label for pair in pairs]
            query = texts[0][0]
            columns["query"] += [query] * len(pairs) if pointwise else [query]
            columns["passage"] += passages if pointwise else [passages]
            columns["label"] += labels if pointwise else [labels]
    return columns


def tell(way: str, values: list[Values], judges: Judges, reference: list[Values] | None) -> None:
    """A line: each seed's figure, their mean, and the test against this project's."""
    figures = [mean_over_languages(of_seed, judges.languages) for of_seed in values]
    seeds = " ".join(f"{figure:.4f}" for figure in figures)
    line = f"{way:28} {np.mean(figures):.4f}  ({seeds})"
    if reference is not None:
        differences = np.mean(reference, axis=0) - np.mean(values, axis=0)
        gain = mean_over_languages(differences, judges.languages)
        p = randomisation_test(differences, judges.languages)
        line += f"  this project {gain:+.4f}, p {p:.4f}"
    say(line)


def with_seed(config: Config, name: str, seed: int) -> Task:
    """The task of a configuration whose ranker has another seed."""
    ranking = config.ranking
    ranker = ranking.rankers[name].model_copy(update={"seed": seed})
    ranking = ranking.model_copy(update={"rankers": {**ranking.rankers, name: ranker}})
    return Task(config.model_copy(update={"ranking": ranking}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("ranker")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--loss", choices=LOSSES, nargs="+", default=["LambdaLoss"])


def main() -> None:
    """Both, seed by seed."""
    config, options = from_arguments("a training beside sentence-transformers'", add_arguments)
    name = options.ranker
    if name not in config.ranking.rankers:
        known = ", ".join(config.ranking.rankers)
        raise InputError(f"found the ranker {name!r}, expected one of {known}")
    tasks = {seed: with_seed(config, name, seed) for seed in options.seeds}
    own: list[Values] = []
    judges = None
    for task in tasks.values():
        scorer = ours(task, name)
        if judges is None:  # the queries of the first seed, for all
            judges = Judges(task, task.config.ranking.rankers[name])
            first_stage = judges.sample.first_stage
            say(f"{len(judges.languages)} dev queries, first stage {first_stage:.4f}")
        own.append(judges(scorer))
    assert judges is not None
    tell("this project", own, judges, None)
    for loss in options.loss:
        values = [judges(theirs(task, name, loss, seed)) for seed, task in tasks.items()]
        tell(loss, values, judges, own)


if __name__ == "__main__":
    exit_with_message(main)
