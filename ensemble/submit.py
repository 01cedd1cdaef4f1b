"""The submission: one file a language in one deterministic zip with a manifest, and the validator of any such file.

python -m ensemble.submit CONFIG [key=value …]                 builds it from finished runs
python -m ensemble.submit CONFIG [key=value …] --check FILE    validates a zip, or one file LANG-SPLIT.trec, from anywhere
"""

import json
import shutil
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.building import run_steps
from core.config import from_arguments
from core.errors import InputError, at_line, exit_with_message
from core.files import digest, finished_file
from core.task import Task
from ensemble.profiles import PROFILES, Entry, Profile
from ranking import rank
from retrieval import search

LIMIT = 2 * 10**9  # bytes of a file in a zip; the largest honest one has some megabytes
CODE = Path(__file__).parent.parent


def entry(task: Task, language: str, run) -> Entry:
    qids = [q.qid for q in task.queries(language, task.config.splits.test)]
    return Entry(
        language,
        "surprise" if task.surprise(language) else "known",
        run,
        qids,
        task.passages(language),
    )


def profile(task: Task) -> Profile:
    s = task.config.submission
    found = PROFILES[s.profile]
    if s.depth > found.depth:
        raise InputError(
            f"submission.depth: found {s.depth}, the profile {s.profile} takes at most {found.depth} passages a query"
        )
    return found


def build(task: Task, folder: Path, plans: Mapping, chosen: dict) -> None:
    """``plans``: all steps by name, ``chosen``: the ensemble's weights; both for the manifest."""
    c, split = task.config, task.config.splits.test
    steps = {la: plans[f"{c.submission.system}/{la}-{split}"] for la, _ in task.pairs(split)}
    manifest = {
        "collection": c.collection_name,
        "name": c.name,
        "split": split,
        **c.submission.model_dump(),
        "config": c.model_dump(mode="json", exclude={"work"}),
        "ensemble": chosen,
        "checkpoints": {n: rank.plan(task)[f"ranker/{n}"].fingerprint for n in c.ranking.rankers},
        "runs": {
            la: digest((step.path / "run.trec").read_text("utf-8")) for la, step in steps.items()
        },
        "recipes": {name: step.fingerprint for name, step in plans.items() if name != "submission"},
        "code": code_digest(),
    }
    write(
        folder / "submission.zip",
        {la: entry(task, la, search.run_of(step)) for la, step in steps.items()},
        split,
        profile(task),
        c.submission.depth,
        c.submission.tag,
        manifest,
    )


def code_digest() -> str:
    """Of the five rooms' source files: which code made a submission."""
    rooms = ("core", "retrieval", "data_aug", "ranking", "ensemble")
    return digest(
        {
            str(p.relative_to(CODE)): p.read_text("utf-8")
            for room in rooms
            for p in sorted((CODE / room).rglob("*.py"))
        }
    )


def write(
    path: Path,
    entries: Mapping[str, Entry],
    split: str,
    form: Profile,
    depth: int,
    tag: str,
    manifest: dict,
) -> None:
    """Builds the zip (same inputs, same bytes), then validates what was written."""
    with finished_file(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for found in entries.values():
            lines = [*([form.head] if form.head else []), *form.lines(found, depth, tag)]
            add(archive, form.name(found.language, split, found.track), "\n".join(lines) + "\n")
        add(
            archive,
            "manifest.json",
            json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n",
        )
    check(path, entries, split, form, depth)


def add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(info, text.encode("utf-8"), compresslevel=9)


def check(
    path: Path, entries: Mapping[str, Entry], split: str, form: Profile, depth: int
) -> dict[str, int]:
    """Lines a file; raises InputError with file and line for anything that a judge could refuse. Nothing is unpacked to disk."""
    wanted = {form.name(e.language, split, e.track): e for e in entries.values()}
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        return {
            path.name: check_file(str(path), path.read_bytes(), one_of(path, wanted), form, depth)
        }
    with zipfile.ZipFile(path) as archive:
        names = [check_name(path, info, wanted, form) for info in archive.infolist()]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InputError(f"{path}: {twice[0]} is in the zip {names.count(twice[0])} times")
        missing = [name for name in wanted if name not in names]
        if missing:
            raise InputError(
                f"{path}: {missing[0]} is missing"
                + (f", and {len(missing) - 1} more" if missing[1:] else "")
            )
        return {
            name: check_file(f"{path}/{name}", archive.read(name), wanted[name], form, depth)
            for name in sorted(wanted)
        }


def one_of(path: Path, wanted: Mapping[str, Entry]) -> Entry:
    """The part of the submission that a single file is, by its name."""
    found = [e for name, e in wanted.items() if Path(name).name == path.name]
    if not found:
        raise InputError(
            f"{path}: not a zip file, and its name is none of {', '.join(sorted(Path(n).name for n in wanted))}"
        )
    return found[0]


def check_name(
    path: Path, info: zipfile.ZipInfo, wanted: Mapping[str, Entry], form: Profile
) -> str:
    name = info.filename
    shape = f"{form.name('LANG', 'SPLIT', 'TRACK')} and manifest.json"
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise InputError(
            f"{path}: found {name!r}, a name that leads out of the folder it is unpacked in; expected {shape}"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{path}: {name} is a link, expected a file")
    if info.flag_bits & 1:
        raise InputError(f"{path}: {name} is encrypted, expected plain files")
    if info.file_size > LIMIT:
        raise InputError(
            f"{path}: {name} has {info.file_size / 1e9:.1f} GB unpacked, expected at most {LIMIT / 1e9:.0f} GB"
        )
    if name != "manifest.json" and name not in wanted:
        raise InputError(
            f"{path}: found {name!r}, expected {shape}, of this collection's languages and tracks: {', '.join(sorted(wanted))}"
        )
    return name


def lines_of(where: str, data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise at_line(
            where,
            data[: error.start].count(b"\n") + 1,
            f"byte 0x{data[error.start]:02x}",
            "UTF-8 text",
        ) from None
    if text.startswith("\ufeff"):
        raise at_line(where, 1, "a byte order mark", "UTF-8 text without one")
    if "\r" in text:
        raise at_line(
            where,
            text[: text.index("\r")].count("\n") + 1,
            "a carriage return",
            "lines that end in a newline alone",
        )
    return text.removesuffix("\n").split("\n") if text else []


def check_file(where: str, data: bytes, entry: Entry, form: Profile, depth: int) -> int:
    """Encoding, columns, known queries and passages, no duplicate, ranks from 1 on, finite scores that strictly decrease in float32
    (so that trec_eval, which reads scores and not ranks, has the same order), depth, every query answered."""
    lines, wanted, last = lines_of(where, data), set(entry.queries), {}
    first, seen = 1, {}
    if form.head is not None:
        if lines[:1] != [form.head]:
            raise at_line(where, 1, repr((lines or [""])[0][:60]), form.head)
        lines, first = lines[1:], 2
    for number, line in enumerate(lines, first):
        for qid, docid, place, score in form.hits(where, number, line):
            if qid not in wanted:
                raise at_line(
                    where,
                    number,
                    f"unknown query {qid}",
                    f"one of the {len(wanted)} queries of {entry.language}",
                )
            docids = seen.setdefault(qid, {})
            if docid in docids:
                raise at_line(
                    where,
                    number,
                    f"passage {docid} a second time for query {qid}",
                    "each passage once a query",
                )
            docids[docid] = number
            if len(docids) > depth:
                raise at_line(
                    where,
                    number,
                    f"passage {len(docids)} of query {qid}",
                    f"at most {depth} passages a query",
                )
            if place is not None and place != str(len(docids)):
                raise at_line(
                    where,
                    number,
                    f"rank {place}",
                    f"rank {len(docids)}: the lines of a query in order, ranks from 1",
                )
            if score is not None:
                value = np.float32(score)
                if qid in last and not value < last[qid]:
                    raise at_line(
                        where,
                        number,
                        f"score {score} after {last[qid]!r}",
                        "strictly decreasing scores, in float32 too",
                    )
                last[qid] = value
    check_coverage(where, entry, seen)
    return len(lines)


def check_coverage(where: str, entry: Entry, seen: Mapping[str, Mapping[str, int]]) -> None:
    """Every query answered, every passage of the corpus; ``seen``: query -> docid -> line."""
    missing = [qid for qid in entry.queries if qid not in seen]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} queries without a passage, first {', '.join(missing[:5])}; expected every query of the split"
        )
    docids = {d: n for found in seen.values() for d, n in found.items()}
    names = list(docids)
    unknown: Sequence[int] = np.flatnonzero(entry.passages.rows(names, strict=False) < 0)
    if len(unknown):
        docid = names[int(unknown[0])]
        raise at_line(
            where,
            docids[docid],
            f"unknown passage {docid} ({len(unknown)} in all)",
            f"docids of the {entry.language} corpus",
        )


def main() -> None:
    config, options = from_arguments(
        "builds or validates a submission",
        lambda p: p.add_argument("--check", type=Path, metavar="FILE"),
    )
    task = Task(config)
    search.plan(task)  # publishes the passages
    if options.check:
        split, form = config.splits.test, profile(task)
        for name, lines in check(
            options.check,
            {la: entry(task, la, {}) for la, _ in task.pairs(split)},
            split,
            form,
            form.depth,
        ).items():
            print(f"{name}: {lines} lines")
        print(f"{options.check}: valid")
        return
    from ensemble import fuse  # its plan has this file's step

    step = fuse.plan(task).get("submission")
    if step is None:
        raise InputError(
            f"{task.collection.root}: no language has {config.splits.test} topics, so there is nothing to hand in"
        )
    run_steps([step], config.folder, some=True)
    shutil.copy(step.path / "submission.zip", config.folder / "submission.zip")
    print(config.folder / "submission.zip")


if __name__ == "__main__":
    exit_with_message(main)
