"""Training a cross-encoder: this project's loop beside sentence-transformers' trainer, in turns.

    python -m benchmarks.training [COLLECTION] [--precision bf16] [--loss listwise_softmax]
                                  [--steps 12] [--rounds 2] [--layers N] [--max-length 160]

Same body, head, texts, lengths, number format, batch and loss; word embeddings frozen in both. Both
are also run without dropout in the body. COLLECTION is in MIRACL's format; without it the texts are
made up. Each run is a process of its own. Pairs/s are those between the beginnings of the second
and the last step; peak memory is the process's until then. Ratios, not seconds, are to be compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from core.collection import Collection
from core.passages import document_text

GROUP = 8  # passages of a query
QUERY_LENGTH = 64
OTHERS = 1000  # passages of a language that fill groups of few judgments
SYLLABLES = "ka lo mi ter an sa pro en di ve ra si ton u ber li".split()

THEIR_LOSSES = {
    "binary_cross_entropy": "BinaryCrossEntropyLoss",
    "listwise_softmax": "ListNetLoss",
    "list_mle": "PListMLELoss",
    "lambda_loss": "LambdaLoss",
}
"""What sentence-transformers calls a loss of this project."""


class Group(NamedTuple):
    """A query with its passages; the first is relevant."""

    query: str
    passages: list[str]


class Figures(NamedTuple):
    """Of one run. ``tokens``: of a pair, a mean."""

    pairs_a_second: float
    cpu_a_pair: float  # seconds of all threads
    gigabytes: float


# ---- Texts


def made_groups(count: int) -> list[Group]:
    """Of words without a meaning, about as long as Wikipedia's passages."""
    random = np.random.Generator(np.random.PCG64(0))

    def text(words: int) -> str:
        made = []
        for _ in range(words):
            made.append("".join(random.choice(SYLLABLES, random.integers(1, 4))))
        return " ".join(made)

    groups = []
    for _ in range(count):
        lengths = random.integers(15, 60, GROUP)
        passages = [text(int(length)) for length in lengths]
        groups.append(Group(text(6), passages))
    return groups


def groups_of(collection: Collection, count: int) -> list[Group]:
    """Of training queries of all languages: a relevant passage, the judged others, then any."""
    languages = [la for la in collection.languages if collection.has(la, "train")]
    share = -(-count // len(languages))
    groups: list[Group] = []
    for language in languages:
        groups += groups_of_language(collection, language, share)
    return groups[:count]


def groups_of_language(collection: Collection, language: str, count: int) -> list[Group]:
    """Of the first queries that have a relevant passage."""
    qrels = collection.judgments(language, "train")
    answered = []
    for query in collection.queries(language, "train"):
        grades = qrels.get(query.qid, {})
        if any(grades.values()):
            answered.append((query.text, sorted(grades, key=lambda docid: -grades[docid])))
    chosen = answered[:count]
    wanted = {docid for _, docids in chosen for docid in docids[:GROUP]}
    texts = {}
    others = []
    for document in collection.documents(language):
        if document.docid in wanted:
            texts[document.docid] = document_text(document)
        elif len(others) < OTHERS:
            others.append(document_text(document))
    filling = iter(others)
    groups = []
    for query, docids in chosen:
        judged = [texts[docid] for docid in docids[:GROUP]]
        groups.append(Group(query, judged + list(islice(filling, GROUP - len(judged)))))
    return groups


# ---- The two trainings


class Watch:
    """Notes when steps begin."""

    def __init__(self, pairs: int):
        self.pairs = pairs  # of a step
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.gigabytes = 0.0

    def note(self) -> None:
        """At the beginning of a step."""
        self.walls.append(time.perf_counter())
        self.cpus.append(time.process_time())
        self.gigabytes = peak()

    def figures(self) -> Figures:
        """Of the steps from the second to the last but one, all of them whole."""
        pairs = self.pairs * (len(self.walls) - 2)
        return Figures(
            pairs_a_second=pairs / (self.walls[-1] - self.walls[1]),
            cpu_a_pair=(self.cpus[-1] - self.cpus[1]) / pairs,
            gigabytes=self.gigabytes,
        )


def peak() -> float:
    """Most memory so far, in GB: of the GPU where there is one, otherwise of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def model_folder() -> str:
    """Where the embedded model is; converted on first use."""
    from core.backbones import source
    from core.settings import Config

    return source("embedded", Config(name="benchmark").models)


def ours(groups: list[Group], options: argparse.Namespace, body_dropout: float | None) -> Figures:
    """The one loop, with a ranker's own learner."""
    import torch

    from core.backbones import load_cross_encoder, load_tokenizer
    from core.groups import as_table, pair_tables
    from core.records import TrainingPair
    from core.settings import Fgm, Ranker
    from ranking.data import TrainingData
    from ranking.learner import RankerLearner
    from ranking.model import CrossEncoder
    from ranking.pairs import PairTokenizer
    from ranking.trainings import make_ready, sample_size
    from training import engine
    from training.loop import Loop

    watch = Watch(options.batch_size)

    class Timed(RankerLearner):
        """Also notes its steps."""

        def begin(self, step: int) -> None:
            watch.note()
            super().begin(step)

    settings = Ranker(
        steps=options.steps,
        evaluate_every=options.steps,
        batch_size=options.batch_size,
        precision=options.precision,
        loss=options.loss,
        group_size=GROUP,
        max_length=options.max_length,
        query_length=QUERY_LENGTH,
        freeze_embeddings=True,
        body_dropout=body_dropout,
        dropouts=[0.1],
        fgm=Fgm(epsilon=0),
    )
    pairs = []
    for number, group in enumerate(groups):
        for place in range(len(group.passages)):
            relevant = float(place == 0)
            pairs.append(TrainingPair("", str(number), str(place), relevant, "judged", 0, "", ""))
    engine.start()
    torch.manual_seed(0)
    where = model_folder()
    body = load_cross_encoder(
        where, options.layers, settings.attention, number_format=options.precision
    )
    make_ready(body, settings, "ours")
    size = sample_size(settings)
    learner = Timed(
        name="ours",
        settings=settings,
        model=CrossEncoder(body, settings.dropouts),
        tokenize=PairTokenizer(load_tokenizer(where), QUERY_LENGTH, options.max_length),
        data=TrainingData(
            pair_tables([as_table(pairs)]), 0, per_step=options.batch_size // size, size=size
        ),
        texts=lambda pair: (
            groups[int(pair.qid)].query,
            groups[int(pair.qid)].passages[int(pair.docid)],
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        Loop(learner, settings, Path(folder), options.precision).run()
    return watch.figures()


def theirs(groups: list[Group], options: argparse.Namespace, body_dropout: float | None) -> Figures:
    """``CrossEncoderTrainer``; in bf16 by autocast, as its ``bf16`` does."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )
    from transformers import TrainerCallback

    watch = Watch(options.batch_size)

    class Timed(TrainerCallback):
        """Notes its steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.note()

    config: dict[str, Any] = {}
    if body_dropout is not None:
        config = {
            "hidden_dropout_prob": body_dropout,
            "attention_probs_dropout_prob": body_dropout,
            "classifier_dropout": 0.1,
        }
    if options.layers:
        config["num_hidden_layers"] = options.layers
    model = CrossEncoder(
        model_folder(), num_labels=1, max_length=options.max_length, config_kwargs=config
    )
    for name, parameter in model.named_parameters():
        if "word_embeddings" in name:
            parameter.requires_grad_(False)
    columns: dict[str, list] = {"query": [], "passage": [], "label": []}
    pointwise = options.loss == "binary_cross_entropy"
    for query, passages in groups:
        labels = [1.0] + [0.0] * (len(passages) - 1)
        columns["query"] += [query] * len(passages) if pointwise else [query]
        columns["passage"] += passages if pointwise else [passages]
        columns["label"] += labels if pointwise else [labels]
    with tempfile.TemporaryDirectory() as folder:
        arguments = CrossEncoderTrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size // (1 if pointwise else GROUP),
            bf16=options.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=getattr(losses, THEIR_LOSSES[options.loss])(model),
            callbacks=[Timed()],
        )
        trainer.train()
    return watch.figures()


Training = Callable[[list[Group], argparse.Namespace, float | None], Figures]

THEIRS = "sentence-transformers"
WAYS: dict[str, tuple[Training, float | None]] = {
    THEIRS: (theirs, None),
    f"{THEIRS}, body_dropout 0": (theirs, 0.0),
    "this project": (ours, None),
    "this project, body_dropout 0": (ours, 0.0),
}
"""A training, and the dropout of its body: the checkpoint's own where it is None."""


# ---- Side by side


def measured(way: str, groups: Path) -> Figures:
    """A way in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:]]
    run = subprocess.run(
        [*command, "--way", way, "--groups", str(groups)], stdout=subprocess.PIPE, check=True
    )
    return Figures(*json.loads(run.stdout.splitlines()[-1]))


def line(way: str, figures: dict[str, list[Figures]]) -> str:
    """Medians over the rounds, beside sentence-transformers as it comes."""
    rate = {name: median(run.pairs_a_second for run in runs) for name, runs in figures.items()}
    cpu = median(run.cpu_a_pair for run in figures[way])
    gigabytes = max(run.gigabytes for run in figures[way])
    return (
        f"{way:40} {rate[way]:8.1f} pairs/s   {rate[way] / rate[THEIRS]:5.2f} x   "
        f"{1000 * cpu:6.1f} ms of CPU a pair   {gigabytes:5.2f} GB at most"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("collection", nargs="?")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--loss", choices=tuple(THEIR_LOSSES), default="listwise_softmax")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch-size", type=int, default=32, help="pairs")
    parser.add_argument("--max-length", type=int, default=160)
    parser.add_argument("--way", choices=tuple(WAYS), help="this one alone, in this process")
    parser.add_argument("--groups", type=Path, help="with --way: its texts")
    return parser.parse_args()


def main() -> None:
    """Each way in turn, as many rounds as asked for."""
    options = arguments()
    if options.way:
        train, body_dropout = WAYS[options.way]
        groups = [Group(*group) for group in json.loads(options.groups.read_text())]
        print(json.dumps(train(groups, options, body_dropout)))
        return
    count = options.steps * options.batch_size // GROUP
    if options.collection:
        groups = groups_of(Collection(options.collection), count)
    else:
        groups = made_groups(count)
    figures: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "groups.json"
        texts.write_text(json.dumps(groups))
        for _ in range(options.rounds):
            for way in WAYS:
                figures[way].append(measured(way, texts))
    print(
        f"{options.loss} in {options.precision}, {options.batch_size} pairs a step, "
        f"{options.max_length} tokens at most"
    )
    for way in WAYS:
        print(line(way, figures), flush=True)


if __name__ == "__main__":
    main()
