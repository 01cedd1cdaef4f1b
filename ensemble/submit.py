"""The submission, with which the ensemble stage is complete, and the validator of any such file.

One file a language in one deterministic zip with a manifest.

python -m ensemble.submit CONFIG [key=value …]                 builds it from finished runs
python -m ensemble.submit CONFIG [key=value …] --check FILE    validates a zip, or one file
                                                               LANG-SPLIT.trec, from anywhere
"""

import json
import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import backbones
from core.artefacts import RankedRun, TrainedRanker
from core.building import run_steps
from core.config import from_arguments
from core.errors import InputError, at_line, exit_with_message
from core.files import digest, file_digest, finished_file
from core.records import Run
from core.rehearsal import wanted_models
from core.steps import Files, Plan, Step
from core.task import Task, once
from ensemble import fuse
from ensemble.profiles import PROFILES, Entry, Hit, Profile
from ranking import rank
from retrieval import search

UNREADABLE = (
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a zip that is damaged, or packed in an unknown way, may end in."""

LIMIT = 2 * 10**9  # bytes of a file in a zip; the largest honest one has some megabytes
CODE = Path(__file__).parent.parent
ROOMS = ("core", "training", "retrieval", "data_aug", "ranking", "ensemble")


@once
def plan(task: Task) -> Plan:
    """The whole stage: the steps of ``ensemble.fuse``, and the submission if there are queries.

    Raises InputError for a ``submission.system`` that is none.
    """
    steps = task.new_plan("ensemble")
    steps.update(fuse.plan(task))
    if task.pairs(task.config.splits.test):
        add_submission(task, steps)
    return steps


def add_submission(task: Task, steps: Plan) -> Step:
    """The zip of the chosen system's runs of the test split."""
    config, split = task.config, task.config.splits.test
    system = config.submission.system
    known = [*config.retrieval.systems, *config.ranking.rankers, *fuse.systems(task)]
    if system not in known:
        raise InputError(f"submission.system: found {system!r}, expected one of {', '.join(known)}")
    # The whole configuration stands in the manifest, so that any setting makes another submission
    settings = {
        **config.submission.model_dump(),
        "split": split,
        "config": config.model_dump(mode="json", exclude={"work"}),
    }
    inputs: list[Step | Files] = []
    for language, _ in task.pairs(split):
        inputs.append(task.step(RankedRun(system, language, split)))
        inputs.append(task.topics_input(language, split))
    return steps.add(
        "submission", 3, settings, inputs, lambda folder: build(task, folder), seconds=2
    )


def entry(task: Task, language: str, run: Run) -> Entry:
    """A language's run as a part of the submission."""
    return Entry(
        language=language,
        track="surprise" if task.surprise(language) else "known",
        run=run,
        queries=[query.qid for query in task.queries(language, task.config.splits.test)],
        passages=task.passages(language),
    )


def profile(task: Task) -> Profile:
    """The chosen one; raises InputError where it takes fewer passages than are to be handed in."""
    settings = task.config.submission
    form = PROFILES[settings.profile]
    if settings.depth > form.depth:
        raise InputError(
            f"submission.depth: found {settings.depth}, the profile {settings.profile} takes at "
            f"most {form.depth} passages a query"
        )
    return form


def build(task: Task, folder: Path) -> None:
    """Writes ``submission.zip``, from the finished runs of the chosen system."""
    config, split = task.config, task.config.splits.test
    entries = {}
    for language, _ in task.pairs(split):
        run = task.run(config.submission.system, language, split)
        entries[language] = entry(task, language, run)
    write(
        path=folder / "submission.zip",
        entries=entries,
        split=split,
        form=profile(task),
        depth=config.submission.depth,
        tag=config.submission.tag,
        manifest=manifest(task),
    )


def manifest(task: Task) -> dict:
    """What the submission was made from: settings, weights, checkpoints, runs, recipes, code.

    Where models of the hub are in it, their commits, too.
    """
    config, split = task.config, task.config.splits.test
    runs = {}
    for language, _ in task.pairs(split):
        step = task.step(RankedRun(config.submission.system, language, split))
        runs[language] = digest((step.path / "run.trec").read_text("utf-8"))
    checkpoints = {}
    for name in config.ranking.rankers:
        checkpoints[name] = task.step(TrainedRanker(name)).fingerprint
    recipes = {}
    for stage in (search, rank, fuse):
        for step in stage.plan(task).values():
            recipes[step.name] = step.fingerprint
    names = [wanted.name for wanted in wanted_models(config)]
    commits = backbones.commits(names, config.models)
    return {
        **({"hub": commits} if commits else {}),
        "collection": config.collection_name,
        "name": config.name,
        "split": split,
        **config.submission.model_dump(),
        "config": portable(task, config.model_dump(mode="json", exclude={"work"})),
        "ensemble": fuse.chosen_weights(task, "ensemble"),
        "checkpoints": checkpoints,
        "runs": runs,
        "recipes": recipes,
        "code": code_digest(),
    }


def portable(task: Task, value: Any, key: str = "") -> Any:
    """Settings without places of this machine: a path becomes its last name and its digest.

    Of the collection's folder the name alone; its files' digests stand in the recipes.
    """
    if isinstance(value, dict):
        return {inner: portable(task, of_inner, inner) for inner, of_inner in value.items()}
    if isinstance(value, list):
        return [portable(task, entry, key) for entry in value]
    if not isinstance(value, str) or os.sep not in value:
        return value
    path = Path(value).expanduser()
    if key == "path" and path == Path(task.config.collection.path or ""):
        return path.name
    if path.is_file():
        return f"{path.name} {file_digest(path, task.config.home / 'digests')[:16]}"
    if path.is_dir():
        inner_files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        digests = [file_digest(inner, task.config.home / "digests") for inner in inner_files]
        return f"{path.name} {digest(digests)}"
    return path.name if path.is_absolute() or ".." in path.parts else value


def code_digest() -> str:
    """Of the rooms' source files: which code made a submission."""
    texts = {}
    for room in ROOMS:
        for path in sorted((CODE / room).rglob("*.py")):
            texts[str(path.relative_to(CODE))] = path.read_text("utf-8")
    return digest(texts)


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
        for part in entries.values():
            head = [] if form.head is None else [form.head]
            lines = [*head, *form.lines(part, depth, tag)]
            add(archive, form.name(part.language, split, part.track), "\n".join(lines) + "\n")
        text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
        add(archive, "manifest.json", text + "\n")
    check(path, entries, split, form, depth)


def add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    """A file of the zip, without anything of the machine or the hour."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16  # the upper half are the permissions of a Unix file
    archive.writestr(info, text.encode("utf-8"), compresslevel=9)


def check(
    path: Path, entries: Mapping[str, Entry], split: str, form: Profile, depth: int
) -> dict[str, int]:
    """Lines a file. Raises InputError with file and line for anything that a judge could refuse.

    Nothing is unpacked to disk.
    """
    wanted = {form.name(part.language, split, part.track): part for part in entries.values()}
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        part = one_of(path, wanted)
        return {path.name: check_file(path, path.read_bytes(), part, form, depth)}
    with opened(path) as archive:
        names = Counter(check_name(path, info, wanted, form) for info in archive.infolist())
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise InputError(f"{path}: {twice[0]} is in the zip {names[twice[0]]} times")
        missing = [name for name in wanted if name not in names]
        if missing:
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise InputError(f"{path}: {missing[0]} is missing{more}")
        lines = {}
        for name in sorted(wanted):
            data = unpacked(path, archive, name)
            lines[name] = check_file(path / name, data, wanted[name], form, depth)
        return lines


def opened(path: Path) -> zipfile.ZipFile:
    """A zip file to read from. Raises InputError for one whose table of contents is damaged."""
    try:
        return zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: not a whole zip file ({error}); build or copy it again"
        ) from None


def unpacked(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A file's bytes. Raises InputError where they are damaged, or packed in a way that is rare."""
    try:
        refuse_two_sizes(path, archive, archive.getinfo(name))
        return archive.read(name)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: {name} cannot be unpacked ({reason}); "
            "expected a whole file, stored or deflated: build or copy the zip again"
        ) from None


def refuse_two_sizes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raises InputError where the table of contents and the file's own head name two sizes.

    Programs differ in which of them they believe. A head of a stream (flag 8) names none.
    """
    assert archive.fp is not None
    archive.fp.seek(info.header_offset + 18)
    (own_size,) = struct.unpack("<L", archive.fp.read(4))
    is_known = not info.flag_bits & 8 and own_size != 2**32 - 1
    if is_known and own_size != info.compress_size:
        raise InputError(
            f"{path}: {info.filename} has {own_size} packed bytes by its own head, and "
            f"{info.compress_size} by the table of contents; build or copy the zip again"
        )


def one_of(path: Path, wanted: Mapping[str, Entry]) -> Entry:
    """The part of the submission that a single file is, by its name."""
    for name, part in wanted.items():
        if Path(name).name == path.name:
            return part
    names = ", ".join(sorted(Path(name).name for name in wanted))
    raise InputError(f"{path}: not a zip file, and its name is none of {names}")


def check_name(
    path: Path, info: zipfile.ZipInfo, wanted: Mapping[str, Entry], form: Profile
) -> str:
    """The name of a file in the zip; raises InputError for one that has no business there."""
    name = info.filename
    shape = f"{form.name('LANG', 'SPLIT', 'TRACK')} and manifest.json"
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise InputError(
            f"{path}: found {name!r}, a name that leads out of the folder it is unpacked in; "
            f"expected {shape}"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{path}: {name} is a link, expected a file")
    if info.flag_bits & 1:
        raise InputError(f"{path}: {name} is encrypted, expected plain files")
    if info.file_size > LIMIT:
        raise InputError(
            f"{path}: {name} has {info.file_size / 1e9:.1f} GB unpacked, "
            f"expected at most {LIMIT / 1e9:.0f} GB"
        )
    if name != "manifest.json" and name not in wanted:
        raise InputError(
            f"{path}: found {name!r}, expected {shape}, of this collection's languages and tracks: "
            f"{', '.join(sorted(wanted))}"
        )
    return name


def lines_of(where: Path, data: bytes) -> list[str]:
    """A file's lines, which end in a newline alone; InputError for other bytes than plain UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise at_line(where, number, f"byte 0x{data[error.start]:02x}", "UTF-8 text") from None
    if text.startswith("\ufeff"):
        raise at_line(where, 1, "a byte order mark", "UTF-8 text without one")
    if "\r" in text:
        number = text[: text.index("\r")].count("\n") + 1
        raise at_line(where, number, "a carriage return", "lines that end in a newline alone")
    return text.removesuffix("\n").split("\n") if text else []


def check_file(where: Path, data: bytes, entry: Entry, form: Profile, depth: int) -> int:
    """The number of its lines; InputError for what ``Reading`` finds, and for a head missing."""
    lines = lines_of(where, data)
    first = 1  # the number of the first line after the head
    if form.head is not None:
        head = lines[0] if lines else ""
        if not lines or head != form.head:
            raise at_line(where, 1, repr(head[:60]), form.head)
        lines = lines[1:]
        first = 2
    reading = Reading(where, entry, depth)
    for number, line in enumerate(lines, first):
        for hit in form.hits(where, number, line):
            reading.add(number, hit)
    reading.end()
    return len(lines)


class Reading:
    """What is known of a file while it is read hit by hit, so that a wrong one is found.

    Expected are known queries and passages, no passage twice, ranks from 1 on, finite scores that
    strictly decrease in float32 (so that trec_eval, which reads scores and not ranks, has the same
    order), the depth, and every query answered.
    """

    def __init__(self, where: Path, entry: Entry, depth: int):
        self.where, self.entry, self.depth = where, entry, depth
        self.wanted = set(entry.queries)
        self.line_of: dict[str, dict[str, int]] = {}  # query id -> docid -> line
        self.last: dict[str, np.float32] = {}  # query id -> the score before

    def add(self, number: int, hit: Hit) -> None:
        """The next hit, of line ``number``; raises InputError."""
        if hit.qid not in self.wanted:
            expected = f"one of the {len(self.wanted)} queries of {self.entry.language}"
            raise at_line(self.where, number, f"unknown query {hit.qid}", expected)
        of_query = self.line_of.setdefault(hit.qid, {})
        if hit.docid in of_query:
            wrong = f"passage {hit.docid} a second time for query {hit.qid}"
            raise at_line(self.where, number, wrong, "each passage once a query")
        of_query[hit.docid] = number
        place = len(of_query)
        if place > self.depth:
            wrong = f"passage {place} of query {hit.qid}"
            raise at_line(self.where, number, wrong, f"at most {self.depth} passages a query")
        if hit.rank is not None and hit.rank != str(place):
            expected = f"rank {place}: the lines of a query in order, ranks from 1"
            raise at_line(self.where, number, f"rank {hit.rank}", expected)
        if hit.score is not None:
            self.add_score(number, hit.qid, hit.score)

    def add_score(self, number: int, qid: str, score: str) -> None:
        """Raises InputError where it is not below the one before."""
        value = np.float32(score)
        if qid in self.last and not value < self.last[qid]:
            wrong = f"score {score} after {self.last[qid]!r}"
            raise at_line(self.where, number, wrong, "strictly decreasing scores, in float32 too")
        self.last[qid] = value

    def end(self) -> None:
        """Raises InputError for a query without a passage, or a passage that the corpus lacks."""
        missing = [qid for qid in self.entry.queries if qid not in self.line_of]
        if missing:
            raise InputError(
                f"{self.where}: {len(missing)} queries without a passage, "
                f"first {', '.join(missing[:5])}; expected every query of the split"
            )
        last_line: dict[str, int] = {}
        for of_query in self.line_of.values():
            last_line |= of_query
        docids = list(last_line)
        rows = self.entry.passages.rows(docids, strict=False)
        unknown: Sequence[int] = np.flatnonzero(rows < 0).tolist()
        if unknown:
            docid = docids[unknown[0]]
            raise at_line(
                self.where,
                last_line[docid],
                f"unknown passage {docid} ({len(unknown)} in all)",
                f"docids of the {self.entry.language} corpus",
            )


def check_given(task: Task, path: Path) -> None:
    """Validates a file from anywhere; prints what it holds."""
    search.plan(task)  # publishes the passages, which are all that it takes
    split, form = task.config.splits.test, profile(task)
    entries = {language: entry(task, language, {}) for language, _ in task.pairs(split)}
    for name, lines in check(path, entries, split, form, form.depth).items():
        print(f"{name}: {lines} lines")
    print(f"{path}: valid")


def submit(task: Task) -> None:
    """Builds the submission from finished runs; prints where it is."""
    step = plan(task).get("submission")
    if step is None:
        raise InputError(
            f"{task.collection.root}: no language has {task.config.splits.test} topics, "
            "so there is nothing to hand in"
        )
    run_steps([step], task.config.folder, some=True)
    shutil.copy(step.path / "submission.zip", task.config.folder / "submission.zip")
    print(task.config.folder / "submission.zip")


def main() -> None:
    """The command line."""
    config, options = from_arguments(
        "builds or validates a submission",
        lambda parser: parser.add_argument("--check", type=Path, metavar="FILE"),
    )
    if options.check:
        check_given(Task(config), options.check)
    else:
        submit(Task(config))


if __name__ == "__main__":
    exit_with_message(main)
