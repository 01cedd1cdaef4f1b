"""Training a bi-encoder: this project's loop beside sentence-transformers' trainer, in turns.

    python -m benchmarks.encoder_training [COLLECTION] [--precision bf16] [--batch-size 32]
                                          [--steps 6] [--rounds 2] [--layers N] [--dropout 0]

Same body, texts, lengths, number format and batch: a query with a relevant and another passage, all
passages of a batch scored; word embeddings frozen in both. Plain, and with gradient caching.
COLLECTION is in MIRACL's format; without it the texts are made up. Each run is a process of its
own. Examples/s are those between the beginnings of the second and the last step; peak memory is the
process's until then. Ratios, not seconds, are to be compared. That the losses of one batch are
equal is a test: tests/retrieval/encoders/test_learner.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.training import Watch, groups_of, made_groups
from core.backbones import source
from core.collection import Collection

PREFIXES = {"query": "query: ", "passage": "passage: "}
TEMPERATURE = 0.05
MODELS = Path("work") / "models"  # where the embedded model is converted on first use


class Example(NamedTuple):
    """What one query is trained with."""

    query: str
    positive: str
    negative: str


class Figures(NamedTuple):
    """Of one run."""

    examples_a_second: float
    cpu_an_example: float  # seconds of all threads
    gigabytes: float


def figures_of(watch: Watch) -> Figures:
    """A watch counts whatever a step has."""
    return Figures(*watch.figures())


class GivenPairs:
    """Examples as a table of pairs offers them: passages 2i and 2i + 1 are those of query i."""

    def __init__(self, examples: list[Example], corpus: Any, tokens: Any):
        self.examples = examples
        self.corpus = corpus
        self.tokens = tokens
        self.spans = {"": range(len(examples))}

    def qids(self, language: str) -> list[str]:
        return [str(number) for number in self.spans[language]]

    def query_texts(self, numbers: np.ndarray) -> list[str]:
        return [self.examples[number].query for number in numbers.tolist()]

    def positives(self, numbers: np.ndarray, batch: int) -> np.ndarray:
        return 2 * numbers

    def relevant(self, numbers: np.ndarray) -> Any:
        from retrieval.encoders.material import Relevant

        return Relevant(np.arange(len(numbers)), 2 * numbers)

    def views(self, numbers: np.ndarray, positives: np.ndarray, batch: int) -> tuple[list, list]:
        queries = self.tokens.rows(self.query_texts(numbers), "query")
        return queries, self.tokens.rows(self.corpus.texts(positives), "passage")


def given_negatives() -> Any:
    """Each example's other passage."""
    from retrieval.encoders.material import ByNumber

    class Given(ByNumber):
        def draw(self, numbers: np.ndarray, batch: int) -> np.ndarray:
            return 2 * numbers[:, None] + 1

    return Given()


def ours(examples: list[Example], options: argparse.Namespace, caching: bool) -> Figures:
    """The one loop, with an encoder's own learner."""
    from core.backbones import load_tokenizer
    from core.encoders import Encoder
    from core.passages import Passages, build_passages
    from core.records import Document
    from retrieval.encoder import BiEncoder, Layout, load
    from retrieval.encoders.batches import BATCHES
    from retrieval.encoders.encoders import prepare
    from retrieval.encoders.learner import EncoderLearner
    from retrieval.encoders.material import Material
    from retrieval.encoders.texts import Corpus, Tokens
    from training import engine
    from training.loop import Loop

    watch = Watch(options.batch_size)

    class Timed(EncoderLearner):
        """Also notes its steps."""

        def begin(self, step: int) -> None:
            watch.note()
            super().begin(step)

    settings = Encoder(
        steps=options.steps,
        evaluate_every=options.steps,
        batch_size=options.batch_size,
        precision=options.precision,
        freeze_embeddings=True,
        body_dropout=options.dropout,
        temperature=TEMPERATURE,
        query_length=options.max_length,
        passage_length=options.max_length,
        gradient_caching=caching,
        batch_tokens=options.batch_tokens,
    )
    engine.start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "training").mkdir()
        documents = []
        for number, example in enumerate(examples):
            documents.append(Document(f"{number}+", "", example.positive))
            documents.append(Document(f"{number}-", "", example.negative))
        build_passages(documents, folder)
        corpus = Corpus([""], lambda _: Passages(folder))
        lengths: Any = {"query": options.max_length, "passage": options.max_length}
        prefixes: Any = PREFIXES
        tokens = Tokens(load_tokenizer(source("embedded", MODELS)), prefixes, lengths)
        body = load(source("embedded", MODELS), Path(), options.layers).bodies["shared"]
        prepare(body, settings, options.precision)
        task: Any = None
        material = Material("ours", settings, task, [""], corpus, tokens, folder)
        pairs = GivenPairs(examples, corpus, tokens)
        learner = Timed(
            material=material,
            model=BiEncoder({"shared": body}, "mean", normalise=True),
            layout=Layout("mean", True, prefixes),
            pairs=pairs,
            batches=BATCHES["shuffled"](material, pairs),
            negatives=given_negatives(),
            links=[],
        )
        Loop(learner, settings, folder / "training", options.precision).run()
    return figures_of(watch)


def theirs(examples: list[Example], options: argparse.Namespace, caching: bool) -> Figures:
    """``SentenceTransformerTrainer``; in bf16 by autocast, as its ``bf16`` does."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import TrainerCallback

    watch = Watch(options.batch_size)

    class Timed(TrainerCallback):
        """Notes its steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.note()

    config: dict[str, Any] = {}
    if options.layers:
        config["num_hidden_layers"] = options.layers
    body = Transformer(
        source("embedded", MODELS), max_seq_length=options.max_length, config_kwargs=config
    )
    model = SentenceTransformer(
        modules=[body, Pooling(body.get_embedding_dimension(), "mean"), Normalize()]
    )
    for name, parameter in model.named_parameters():
        if "word_embeddings" in name:
            parameter.requires_grad_(False)
    if options.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = options.dropout
    kind = (
        losses.CachedMultipleNegativesRankingLoss
        if caching
        else (losses.MultipleNegativesRankingLoss)
    )
    columns = {name: [getattr(one, name) for one in examples] for name in Example._fields}
    passage = PREFIXES["passage"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            bf16=options.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            prompts={"query": PREFIXES["query"], "positive": passage, "negative": passage},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=kind(model, scale=1 / TEMPERATURE),
            callbacks=[Timed()],
        )
        trainer.train()
    return figures_of(watch)


Training = Callable[[list[Example], argparse.Namespace, bool], Figures]

PLAIN = "MultipleNegativesRankingLoss"
WAYS: dict[str, tuple[Training, bool]] = {
    PLAIN: (theirs, False),
    "this project": (ours, False),
    f"Cached{PLAIN}": (theirs, True),
    "this project, gradient_caching": (ours, True),
}
"""A training, and whether it caches gradients."""

BESIDE = {
    "this project": PLAIN,
    "this project, gradient_caching": f"Cached{PLAIN}",
}
"""What a way is compared with."""


# ---- Side by side


def measured(way: str, examples: Path) -> Figures:
    """A way in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.encoder_training", *sys.argv[1:]]
    run = subprocess.run(
        [*command, "--way", way, "--examples", str(examples)], stdout=subprocess.PIPE, check=True
    )
    return Figures(*json.loads(run.stdout.splitlines()[-1]))


def line(way: str, figures: dict[str, list[Figures]]) -> str:
    """Medians over the rounds, beside sentence-transformers' way."""
    rate = {name: median(run.examples_a_second for run in runs) for name, runs in figures.items()}
    cpu = {name: median(run.cpu_an_example for run in runs) for name, runs in figures.items()}
    gigabytes = max(run.gigabytes for run in figures[way])
    other = BESIDE.get(way, way)
    return (
        f"{way:36} {rate[way]:7.2f} examples/s {rate[way] / rate[other]:5.2f} x   "
        f"{1000 * cpu[way]:6.1f} ms of CPU an example {cpu[other] / cpu[way]:5.2f} x   "
        f"{gigabytes:5.2f} GB at most"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("collection", nargs="?")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=32, help="queries")
    parser.add_argument("--batch-tokens", type=int, help="of this project; its default without")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--dropout", type=float, help="of the body; the checkpoint's without it")
    parser.add_argument("--way", choices=tuple(WAYS), help="this one alone, in this process")
    parser.add_argument("--examples", type=Path, help="with --way: its texts")
    return parser.parse_args()


def main() -> None:
    """Each way in turn, as many rounds as asked for."""
    options = arguments()
    if options.way:
        train, caching = WAYS[options.way]
        examples = [Example(*texts) for texts in json.loads(options.examples.read_text())]
        print(json.dumps(train(examples, options, caching)))
        return
    count = options.steps * options.batch_size
    groups = made_groups(count)
    if options.collection:
        groups = groups_of(Collection(options.collection), count)
    examples = [Example(group.query, group.passages[0], group.passages[1]) for group in groups]
    np.random.Generator(np.random.PCG64(0)).shuffle(examples)
    figures: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "examples.json"
        texts.write_text(json.dumps(examples))
        for _ in range(options.rounds):
            for way in WAYS:
                figures[way].append(measured(way, texts))
                print(f"{way}: {figures[way][-1]}", file=sys.stderr, flush=True)
    print(
        f"{options.batch_size} queries a step, each with two passages, {options.precision}, "
        f"{options.max_length} tokens at most"
    )
    for way in WAYS:
        print(line(way, figures), flush=True)


if __name__ == "__main__":
    main()
