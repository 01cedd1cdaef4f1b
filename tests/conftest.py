import gzip
import json
import os
from pathlib import Path

import pytest

from core.settings import Config

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub but its own, on loopback

ROOT = Path(__file__).parent.parent
PASSAGES = {
    "en": [
        ("a#0", "Nairobi", "Nairobi is the capital of Kenya."),
        ("a#1", "Nairobi", "The city has four million people."),
        ("b#0", "Oslo", "Oslo is the capital of Norway."),
        ("c#0", "", "A fjord is a long narrow inlet."),
        ("d#0", "Tea", "Tea grows in Kenya."),
    ],
    "sw": [
        ("a#0", "Nairobi", "Nairobi ni mji mkuu wa Kenya."),
        ("b#0", "Oslo", "Oslo ni mji mkuu wa Norway."),
        ("c#0", "Chai", "Chai hulimwa Kenya."),
    ],
    "de": [
        ("a#0", "Nairobi", "Nairobi ist die Hauptstadt von Kenia."),
        ("b#0", "Oslo", "Oslo ist die Hauptstadt von Norwegen."),
    ],
}
TOPICS = {
    ("en", "train"): [
        ("1", "capital of Kenya", "a#0", "b#0"),
        ("2", "what is a fjord", "c#0", "d#0"),
    ],
    ("en", "dev"): [("3", "where does tea grow", "d#0", "a#1")],
    ("en", "testA"): [("4", "capital of Norway", "b#0", "a#0")],
    ("sw", "train"): [("1", "mji mkuu wa Kenya", "a#0", "c#0")],
    ("sw", "dev"): [("2", "chai hulimwa wapi", "c#0", "b#0")],
    ("sw", "testA"): [("3", "mji mkuu wa Norway", "b#0", "a#0")],
    ("de", "dev"): [("1", "Hauptstadt von Kenia", "a#0", "b#0")],
    ("de", "testA"): [("2", "Hauptstadt von Norwegen", "b#0", "a#0")],
}


def pytest_addoption(parser):
    parser.addoption("--no-skip", action="store_true", help="a skipped test fails the run")


def skipped(config) -> list:
    return config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])


def pytest_sessionfinish(session, exitstatus):
    if session.config.getoption("--no-skip") and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--no-skip") and skipped(config):
        terminalreporter.line("error: --no-skip: the skipped tests above count as failures")


def write_collection(root: Path) -> Path:
    for language, passages in PASSAGES.items():
        (root / language / "corpus").mkdir(parents=True)
        with gzip.open(
            root / language / "corpus" / "docs-0.jsonl.gz", "wt", encoding="utf-8"
        ) as file:
            for docid, title, text in passages:
                file.write(json.dumps({"docid": docid, "title": title, "text": text}) + "\n")
    for (language, split), rows in TOPICS.items():
        for kind in ("topics", "qrels"):
            (root / language / kind).mkdir(exist_ok=True)
        (root / language / "topics" / f"topics.{language}-{split}.tsv").write_text(
            "".join(f"{q}\t{text}\n" for q, text, _, _ in rows)
        )
        (root / language / "qrels" / f"qrels.{language}-{split}.tsv").write_text(
            "".join(f"{q} Q0 {good} 1\n{q} Q0 {bad} 0\n" for q, _, good, bad in rows)
        )
    return root


@pytest.fixture(scope="session")
def small_collection():
    """A function that writes the collection of ``folder`` into a folder."""
    return write_collection


@pytest.fixture
def folder(tmp_path) -> Path:
    """A collection of three languages, de without training topics."""
    return write_collection(tmp_path / "small")


@pytest.fixture
def config(folder, tmp_path):
    def make(**values) -> Config:
        return Config.model_validate(
            {
                "name": "test",
                "work": str(tmp_path / "work"),
                "collection": {"source": "disk", "path": str(folder)},
            }
            | values
        )

    return make


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Where the embedded model is converted, once for all tests."""
    return tmp_path_factory.mktemp("work") / "models"


@pytest.fixture(scope="session")
def embedded_folder(models) -> Path:
    from core import embedded

    return embedded.folder(models)


@pytest.fixture
def tiny_body():
    """A randomly drawn BERT with a classification head: 2 layers of 16, 50 pieces, no dropout."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
