"""A little encoder with its tokenizer, and a collection of made-up words."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789:?."


def tokenizer(max_length=40):
    """BERT's, of single letters: 82 pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + c for c in LETTERS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def body(seed=0, **more):
    """A randomly drawn BERT: 2 layers of 16, no dropout."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 82,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 48,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertModel(BertConfig(**{**settings, **more}), add_pooling_layer=False).eval()


def write(folder: Path, **more) -> Path:
    body(**more).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_collection(root: Path, queries: int = 12, languages=("en", "sw"), dev: int = 4) -> Path:
    """Passages ``w3 n3`` to queries ``w3?``: a letter and a number tell what belongs together.

    Passage p3#0 is relevant to query 3, p3#1 is judged and not; every fourth query has two relevant
    passages, p3#0 and p3#2.
    """
    for place, language in enumerate(languages):
        total = queries + dev
        (root / language / "corpus").mkdir(parents=True)
        for kind in ("topics", "qrels"):
            (root / language / kind).mkdir()
        with gzip.open(root / language / "corpus" / "docs-0.jsonl.gz", "wt") as file:
            for i in range(total):
                for part, filling in enumerate(("is", "was not", "will be")):
                    text = f"{word(i, place)} {filling} {'abc'[part]} thing." + " more" * (i % 3)
                    document = {"docid": f"p{i}#{part}", "title": "", "text": text}
                    file.write(json.dumps(document) + "\n")
        for split, numbers in (("train", range(queries)), ("dev", range(queries, total))):
            topics, qrels = [], []
            for i in numbers:
                topics.append(f"{i}\t{word(i, place)}?")
                qrels += [f"{i} Q0 p{i}#0 1", f"{i} Q0 p{i}#1 0"]
                if i % 4 == 0:
                    qrels.append(f"{i} Q0 p{i}#2 1")
            for kind, lines in (("topics", topics), ("qrels", qrels)):
                path = root / language / kind / f"{kind}.{language}-{split}.tsv"
                path.write_text("".join(line + "\n" for line in lines))
    return root


def word(number: int, place: int) -> str:
    """A made-up word, another in each language."""
    digits = "bdfghklmnprst"
    return digits[number % 13] + "ae"[place % 2] + digits[(number * 5 + 1) % 13] + "ou"[number % 2]


def task(folder: Path, work: Path, **more):
    """A task of a collection, with its passages made."""
    from core.building import run_steps
    from core.settings import Config
    from core.task import Task
    from retrieval import retrievers

    values = {
        "name": "t",
        "work": str(work),
        "collection": {"path": str(folder)},
        "retrieval": {"sources": ["bm25"]},
    }
    made = Task(Config.model_validate({**values, **more}))
    plan = retrievers.sources_plan(made)
    passages = [plan[f"passages/{language}"] for language in made.languages]
    run_steps(passages, made.config.folder)
    return made


class ToyPairs:
    """What a table of pairs offers, by sums: passage 3i is relevant to query i.

    To every fourth query 3i + 1 is, too. Two languages, as many examples each.
    """

    def __init__(self, corpus, tokens, examples=24):
        half = examples // 2
        self.spans = {"en": range(half), "sw": range(half, examples)}
        self.corpus, self.tokens = corpus, tokens

    def qids(self, language):
        return [str(number) for number in self.spans[language]]

    def positives(self, numbers, batch):
        return 3 * numbers

    def relevant(self, numbers):
        import numpy as np

        from retrieval.encoders.material import Relevant

        pairs = [(i, 3 * n) for i, n in enumerate(numbers.tolist())]
        pairs += [(i, 3 * n + 1) for i, n in enumerate(numbers.tolist()) if n % 4 == 0]
        place, ids = zip(*pairs, strict=True) if pairs else ((), ())
        return Relevant(np.array(place, np.int64), np.array(ids, np.int64))

    def views(self, numbers, positives, batch):
        queries = [f"{word(n, 0)}?" for n in numbers.tolist()]
        passages = self.corpus.texts(positives)
        return self.tokens.rows(queries, "query"), self.tokens.rows(passages, "passage")


class ToyNegatives:
    """The two passages behind the positive, the first of which may be relevant; some have one."""

    def draw(self, numbers, batch):
        import numpy as np

        drawn = np.stack([3 * numbers + 1, 3 * numbers + 2], 1)
        drawn[numbers % 5 == 2, 1] = -1
        return drawn

    def waits(self, step):
        return False

    def begin(self, step, encode):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass


def corpus(folder, examples=24):
    """Three passages an example, in two languages."""
    from core.passages import Passages, build_passages
    from core.records import Document
    from retrieval.encoders.texts import Corpus

    half = examples // 2
    for language, first in (("en", 0), ("sw", half)):
        store = folder / language
        if not (store / "count.json").exists():
            store.mkdir(parents=True, exist_ok=True)
            documents = []
            for number in range(3 * first, 3 * (first + half)):
                text = f"{word(number // 3, 0)} is {'abc'[number % 3]}." + " more" * (number % 4)
                documents.append(Document(f"d{number}", "", text))
            build_passages(documents, store)
    return Corpus(["en", "sw"], lambda language: Passages(folder / language))


def settings(folder, stage=0, **more):
    """Six steps of eight queries in two batches."""
    from core.encoders import Draw, Encoder

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    values = {
        "steps": 6,
        "batch_size": 4,
        "accumulation": 2,
        "learning_rate": 1e-2,
        "evaluate_every": 2,
        "precision": "fp32",
        "deepspeed": str(folder / "ds.json"),
        "query_length": 12,
        "passage_length": 24,
        "batch_tokens": 64,
        "draw": Draw(number=2),
    }
    return Encoder(**{**values, **more})


def learner(chosen, folder, dropout=0.0, negatives=True, towers="shared", normalise=True, dev=None):
    """A learner of toy examples; its links and batches are real."""
    from retrieval.encoder import BiEncoder, Layout
    from retrieval.encoders.batches import BATCHES
    from retrieval.encoders.in_batch import IN_BATCH
    from retrieval.encoders.learner import EncoderLearner
    from retrieval.encoders.material import Material
    from retrieval.encoders.texts import Tokens

    prefixes = {"query": "q: ", "passage": "p: "}
    lengths = {"query": chosen.query_length, "passage": chosen.passage_length}
    tokens = Tokens(tokenizer(), prefixes, lengths)
    texts = corpus(folder / "texts")
    material = Material("toy", chosen, None, ["en", "sw"], texts, tokens, folder)
    pairs = ToyPairs(texts, tokens)
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    bodies = {"shared": body(0, **dropouts)}
    if towers == "separate":
        bodies = {"query": body(1, **dropouts), "passage": body(2, **dropouts)}
    return EncoderLearner(
        material=material,
        model=BiEncoder(bodies, "mean", normalise),
        layout=Layout("mean", normalise, prefixes),
        pairs=pairs,
        batches=BATCHES[chosen.batches](material, pairs),
        negatives=ToyNegatives() if negatives else None,
        links=[IN_BATCH[link](material) for link in chosen.in_batch],
        dev=dev,
    )


def gradients(learner):
    """Losses and gradients of a step's batches, at ZeRO 0."""
    import torch

    from training import engine as deep

    deep.start()
    settings = learner.settings
    config = deep.settings(
        settings.deepspeed, settings.batch_size, settings.accumulation, 0.0, settings.precision
    )
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.0)
    engine = deep.make(learner.model, optimizer, config)
    engine.train()
    losses = [learner.learn(engine, batch, 0)["loss"] for batch in learner.batches(0)]
    found = {name: p.grad.clone() for name, p in learner.model.named_parameters()}
    engine.destroy()
    return losses, found


def train(task, *names):
    """Makes encoders of a task, and what they stand on; the folder of the last."""
    from core.artefacts import TrainedEncoder
    from retrieval.encoders import encoders

    steps = [task.step(TrainedEncoder(name)) for name in names]
    encoders.make(task, steps)
    return steps[-1].path


def weights(folder):
    """The digest of a trained encoder's weights."""
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def train_until(step, task, name):
    """A training that is interrupted when it is about to learn a step, counted from 0."""
    from retrieval.encoders.learner import EncoderLearner

    learn = EncoderLearner.learn

    def stop(self, engine, batch, number):
        if self.name == name and number == step:
            raise KeyboardInterrupt
        return learn(self, engine, batch, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EncoderLearner, "learn", stop)
        train(task, name)
