"""The submission: one TREC file a language and track in one deterministic zip with a manifest, and its validator.

    python -m ensemble.submit CONFIG --check FILE      validates a zip against the configuration's queries and passages
"""
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.config import from_arguments
from core.errors import InputError, at_line, exit_with_message
from core.files import finished_file
from core.passages import Passages
from core.records import Run
from core.runs import finite, ranked
from core.task import Task

NAME = re.compile(r"(known|surprise)/([a-z]{2,3})-([\w-]+)\.trec")


@dataclass(frozen=True)
class Entry:
    language: str
    track: str
    run: Run
    queries: Sequence[str]
    passages: Passages


def strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """The same order with scores that also differ in float32: each at least one float32 step below the one before."""
    made: list[float] = []
    for score in scores:
        value = np.float32(score)
        if made and value >= np.float32(made[-1]):
            value = np.nextafter(np.float32(made[-1]), np.float32(-np.inf))
        made.append(float(value))
    return made


def trec_lines(entry: Entry, depth: int, tag: str):
    for qid in entry.queries:
        best = ranked(entry.run.get(qid, {}))[:depth]
        for rank, (hit, score) in enumerate(zip(best, strictly_decreasing([s for _, s in best])), 1):
            yield f"{qid} Q0 {hit.docid} {rank} {score!r} {tag}\n"


def write(path: Path, entries: Sequence[Entry], depth: int, tag: str, split: str, manifest: dict) -> None:
    """Builds the zip (same inputs, same bytes), then validates what was written."""
    with finished_file(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for entry in entries:
            add(archive, f"{entry.track}/{entry.language}-{split}.trec", "".join(trec_lines(entry, depth, tag)))
        add(archive, "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    check(path, {(e.track, e.language, split): e for e in entries}, depth)


def add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(info, text.encode("utf-8"), compresslevel=9)


def check(path: Path, expected: dict[tuple[str, str, str], Entry], depth: int) -> dict[str, int]:
    """Lines a file; raises InputError with file and line for anything that a judge could refuse."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a zip file")
    counts = {}
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            match = NAME.fullmatch(name)
            if match:
                found[match.groups()] = name
            elif name != "manifest.json":
                raise InputError(f"{path}: found {name!r}, expected TRACK/LANG-SPLIT.trec and manifest.json")
        for key in expected.keys() - found.keys():
            raise InputError(f"{path}: {key[0]}/{key[1]}-{key[2]}.trec is missing")
        for key, name in sorted(found.items()):
            if key not in expected:
                raise InputError(f"{path}: {name} is of no language and track of this collection")
            try:
                text = archive.read(name).decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}/{name}: byte {error.start} is not UTF-8") from None
            counts[name] = check_file(f"{path}/{name}", text.splitlines(), expected[key], depth)
    return counts


def check_file(where: str, lines: Sequence[str], entry: Entry, depth: int) -> int:
    """Columns, known queries and passages, no duplicate, ranks from 1 on, finite scores that strictly decrease in float32, depth."""
    wanted, seen, last = set(entry.queries), {}, {}
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if len(columns) != 6:
            raise at_line(where, number, f"{len(columns)} columns", "6: query-id Q0 docid rank score tag")
        qid, _, docid, rank, text, _ = columns
        if qid not in wanted:
            raise at_line(where, number, f"unknown query {qid}", f"one of the {len(wanted)} queries of {entry.language}")
        score = np.float32(finite(where, number, text))
        docids = seen.setdefault(qid, {})
        if docid in docids:
            raise at_line(where, number, f"passage {docid} a second time for query {qid}", "each passage once a query")
        docids[docid] = number
        if len(docids) > depth:
            raise at_line(where, number, f"passage {len(docids)} of query {qid}", f"at most {depth} passages a query")
        if rank != str(len(docids)):
            raise at_line(where, number, f"rank {rank}", f"rank {len(docids)}: the lines of a query in order, ranks from 1")
        if qid in last and not score < last[qid]:
            raise at_line(where, number, f"score {text} after {last[qid]!r}", "strictly decreasing scores, in float32 too")
        last[qid] = score
    missing = [qid for qid in entry.queries if qid not in seen]
    if missing:
        raise InputError(f"{where}: {len(missing)} queries without a passage, first {', '.join(missing[:5])}; expected every query of the split")
    docids = {d: n for found in seen.values() for d, n in found.items()}
    names = list(docids)
    unknown = np.flatnonzero(entry.passages.rows(names, strict=False) < 0)
    if len(unknown):
        docid = names[int(unknown[0])]
        raise at_line(where, docids[docid], f"unknown passage {docid} ({len(unknown)} in all)", f"docids of the {entry.language} corpus")
    return len(lines)


def expected_entries(task: Task) -> dict[tuple[str, str, str], Entry]:
    from retrieval import search

    split = task.config.splits.test
    return {(track, la, split): Entry(la, track, {}, [q.qid for q in task.queries(la, split)], search.passages(task, la))
            for la, _ in task.pairs(split) for track in ["surprise" if task.surprise(la) else "known"]}


def main() -> None:
    config, options = from_arguments("validates a submission", lambda p: p.add_argument("--check", type=Path, required=True, metavar="FILE"))
    for name, lines in check(options.check, expected_entries(Task(config)), config.submission.depth).items():
        print(f"{name}: {lines} lines")
    print(f"{options.check}: valid")


if __name__ == "__main__":
    exit_with_message(main)
