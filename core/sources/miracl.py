"""MIRACL from the model hub, under the hub's own file names.

    python -m core.sources.miracl OUT [--languages ar bn …] [--allow counts]

Topics and judgments are those of ``miracl/miracl``, corpora of ``miracl/miracl-corpus``. Finished
files are kept, so a broken download is started again with the same command. The data set asks for
an account that has accepted its terms: HF_TOKEN, or a token that ``hf auth login`` stored.
HF_ENDPOINT names another hub.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from core import hub
from core.collection import Collection, corpus_lines, read_qrels
from core.console import progress
from core.errors import InputError, exit_with_message

TOPICS, CORPUS = "miracl/miracl", "miracl/miracl-corpus"
TABLE = Path(__file__).with_name("miracl.tsv")  # the paper's Table 1; de and yo from the data card


def counts() -> dict[str, dict[str, int]]:
    """Language -> what -> how many there are; test splits have no public judgments."""
    head, *rows = TABLE.read_text("utf-8").splitlines()
    _, *names = head.split("\t")
    table = {}
    for row in rows:
        language, *cells = row.split("\t")
        known = {}
        for name, cell in zip(names, cells, strict=True):
            if cell != "-":
                known[name] = int(cell)
        table[language] = known
    return table


def fetch(repository: str, wanted: Callable[[str], bool], out: Path) -> list[str]:
    """Files of a data set into ``out``; their names.

    Raises InputError that says what to do where the hub wants a token or does not answer.
    """
    from huggingface_hub import HfApi, hf_hub_download

    def list_files() -> list[str]:
        return HfApi().list_repo_files(repository, repo_type="dataset")

    try:
        listed = hub.patiently(list_files, repository)
        names = sorted(filter(wanted, listed))
        for name in progress(names, what=repository, unit="file"):
            hf_hub_download(repository, name, repo_type="dataset", local_dir=out)
    except (OSError, hub.transfer_error()) as error:
        if answer := hub.meaning(error):
            raise InputError(f"{repository}: {answer}") from None
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{repository}: the download broke off ({type(error).__name__}: {reason}); "
            "finished files are kept, start again to go on"
        ) from None
    return names


def language_of(name: str) -> str | None:
    """The language of a file in the hub's repositories; None for others."""
    match = re.match(r"miracl(?:-corpus)?-v[\d.]+-([a-z]{2,3})/", name)
    return match[1] if match else None


def read_counts(collection: Collection, language: str) -> dict[str, int]:
    """As ``counts`` has them, read from the files."""
    files = collection.corpus_files(language)
    passages = 0
    for path in files:
        passages += sum(1 for _ in corpus_lines(path))
    read = {"passages": passages}
    for split in ("train", "dev", "testA", "testB"):
        if not collection.has(language, split):
            continue
        read[f"{split} queries"] = len(collection.queries(language, split))
        if (language, split) in collection.qrels and not split.startswith("test"):
            qrels = read_qrels(collection.qrels_file(language, split))
            read[f"{split} judgments"] = sum(map(len, qrels.values()))
    return read


def check_counts(collection: Collection, language: str, allowed: bool) -> None:
    """Prints what a language has. Raises InputError for other counts than known, unless allowed."""
    known = counts().get(language, {})
    read = read_counts(collection, language)
    wrong = []
    for name, expected in known.items():
        if read.get(name) != expected:
            wrong.append(f"{name}: found {read.get(name, 'none')}, expected {expected}")
    if wrong and not allowed:
        raise InputError(
            f"{collection.root}: {language}: {'; '.join(wrong)}; "
            "download again, or go on with --allow counts"
        )
    listed = ", ".join(f"{value} {name}" for name, value in read.items())
    note = f" (allowed: {'; '.join(wrong)})" if wrong else ""
    print(f"{language}: {listed}{note}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.sources.miracl", description="MIRACL into a folder"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--languages", nargs="*", default=[], choices=sorted(counts()), help="all 18 without it"
    )
    parser.add_argument("--allow", nargs="*", default=[], choices=["counts"])
    options = parser.parse_args()
    languages = options.languages or sorted(counts())

    def wanted(name: str) -> bool:
        return language_of(name) in languages and name.endswith((".tsv", ".jsonl.gz"))

    for repository in (TOPICS, CORPUS):
        if not fetch(repository, wanted, options.out):
            raise InputError(
                f"{repository}: holds no file of {', '.join(languages)} "
                "under the names miracl-v…-LANG/ and miracl-corpus-v…-LANG/"
            )
    collection = Collection(options.out, languages)
    for language in languages:
        check_counts(collection, language, "counts" in options.allow)


if __name__ == "__main__":
    exit_with_message(main)
