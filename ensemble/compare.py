"""Runs side by side: nDCG@10 and recall by language, paired tests corrected for their number, and the queries that differ most.

python -m ensemble.compare --qrels QRELS a.trec b.trec …              TREC files of one language
python -m ensemble.compare work/COLLECTION/NAME work/COLLECTION/OTHER  results; their submitted systems
python -m ensemble.compare work/COLLECTION/NAME/runs/hybrid work/COLLECTION/NAME/runs/ensemble [--split dev]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from core.collection import read_qrels
from core.errors import InputError, exit_with_message
from core.evaluate import TESTS, evaluate, holm
from core.judgments import split_judgments
from core.records import Qrels, Run
from core.runs import read_run
from core.settings import Config
from core.task import Task
from ensemble.results import text_table

METRICS = ("nDCG@10", "R@100")
Key = tuple[str, str]  # (language, query id)
Values = Mapping[str, Mapping[str, Mapping[Key, float]]]  # run -> metric -> query -> value


@dataclass(frozen=True)
class Compared:
    """Runs by name and language, with the judgments and the texts of the queries."""

    runs: dict[str, dict[str, Run]]
    qrels: dict[str, Qrels]
    texts: dict[Key, str]


def from_files(paths: Sequence[Path], qrels: Path) -> Compared:
    return Compared(
        {name: {"": read_run(path)} for name, path in zip(short_names(paths), paths)},
        {"": read_qrels(qrels)},
        {},
    )


def from_results(paths: Sequence[Path], split: str | None) -> Compared:
    """``paths``: folders NAME or NAME/runs/SYSTEM of one collection."""
    tasks = {path: task_of(path) for path in paths}
    first = tasks[paths[0]]
    split = split or first.config.splits.test
    pairs = [pair for pair in first.pairs(split) if pair in first.collection.qrels]
    if not pairs:
        raise InputError(
            f"{paths[0]}: no language has judgments for {split}; choose another with --split"
        )
    for path, task in tasks.items():
        for la, s in pairs:
            if (la, s) not in task.pairs(split) or task.topics_input(
                la, s
            ).fingerprint != first.topics_input(la, s).fingerprint:
                raise InputError(
                    f"{path}: its queries of {la}-{s} are not those of {paths[0]}; compare results of one collection, made with the same limit, seed and languages"
                )
    runs = {
        name: {la: read_run(run_folder(path) / f"{la}-{split}.trec") for la, _ in pairs}
        for name, path in zip(short_names(paths), paths)
    }
    return Compared(
        runs,
        {la: split_judgments(first, la, split) for la, _ in pairs},
        {(la, q.qid): q.text for la, s in pairs for q in first.queries(la, s)},
    )


def task_of(path: Path) -> Task:
    file = next(
        (p / "config.json" for p in (path, *path.parents[:2]) if (p / "config.json").is_file()),
        None,
    )
    if file is None:
        raise InputError(
            f"{path}: neither a TREC file nor a folder work/COLLECTION/NAME or work/COLLECTION/NAME/runs/SYSTEM of a finished run"
        )
    return Task(Config.model_validate_json(file.read_text("utf-8")))


def run_folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        return path
    return path / "runs" / task_of(path).config.submission.system


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for parts in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-parts:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{paths[0]} is named twice; expected different runs")


def values_of(judged: Compared) -> dict[str, dict[str, dict[Key, float]]]:
    """Every judged query counts, an unanswered one as 0. Raises InputError for a run that holds none of the judged queries or of their
    judged passages: it is of another collection."""
    found: dict[str, dict[str, dict[Key, float]]] = {}
    for name, by_language in judged.runs.items():
        for la, run in by_language.items():
            qrels, where = judged.qrels[la], f"{name}{' ' + la if la else ''}"
            if not run.keys() & qrels.keys():
                raise InputError(
                    f"{where}: answers none of the {len(qrels)} judged queries; is it a run of this collection, language and split?"
                )
            if not any(d in qrels[q] for q, scores in run.items() if q in qrels for d in scores):
                raise InputError(
                    f"{where}: holds none of the judged passages; is it a run of another collection?"
                )
            for metric, values in evaluate(run, qrels, METRICS).items():
                found.setdefault(name, {}).setdefault(metric, {}).update(
                    {(la, q): v for q, v in values.items()}
                )
    return found


def remarks(judged: Compared) -> list[str]:
    """What makes runs unequal: queries unanswered, other depths, constant scores."""
    found, depths = [], {}
    for name, by_language in judged.runs.items():
        missing = [
            (la, q)
            for la, qrels in judged.qrels.items()
            for q in qrels
            if not by_language[la].get(q)
        ]
        constant = [
            (la, q)
            for la, run in by_language.items()
            for q, scores in run.items()
            if len(scores) > 1 and len(set(scores.values())) == 1
        ]
        depths[name] = max(len(scores) for run in by_language.values() for scores in run.values())
        for keys, what in (
            (missing, "judged queries unanswered, they count as 0"),
            (constant, "queries with all scores equal, their order is by docid alone"),
        ):
            if keys:
                found.append(
                    f"{name}: {len(keys)} {what}; first {', '.join('/'.join(filter(None, key)) for key in keys[:3])}"
                )
    if len(set(depths.values())) > 1:
        found.append(
            "depths differ: "
            + ", ".join(f"{n} {d}" for n, d in depths.items())
            + "; recall below the smallest is not comparable"
        )
    return found


def mean_rows(values: Values, languages: Sequence[str]) -> list[list[str]]:
    named = [la for la in languages if la]
    rows = [["metric", "run", *named, "mean"]]
    for metric in METRICS:
        for name in values:
            means = [
                fmean(v for (la, _), v in values[name][metric].items() if la == wanted)
                for wanted in languages
            ]
            rows.append(
                [metric, name, *(f"{m:.4f}" for m in means if named), f"{fmean(means):.4f}"]
            )
    return rows


def differences(values: Values, a: str, b: str) -> dict[Key, float]:
    """nDCG@10 of b less that of a, by query."""
    return {key: v - values[a]["nDCG@10"][key] for key, v in values[b]["nDCG@10"].items()}


def test_rows(values: Values, test: str) -> list[list[str]]:
    """Every pair of runs: difference of nDCG@10 over queries, wins, ties, losses, p and Holm's."""
    pairs = [(a, b, list(differences(values, a, b).values())) for a, b in combinations(values, 2)]
    ps = [TESTS[test](d, 0) for _, _, d in pairs]
    return [
        ["better?", "than", "difference", "wins", "ties", "losses", "p", "p (Holm)"],
        *(
            [
                b,
                a,
                f"{fmean(d):+.4f}",
                str(sum(x > 0 for x in d)),
                str(sum(x == 0 for x in d)),
                str(sum(x < 0 for x in d)),
                f"{p:.4f}",
                f"{h:.4f}",
            ]
            for (a, b, d), p, h in zip(pairs, ps, holm(ps))
        ),
    ]


def query_rows(
    values: Values, texts: Mapping[Key, str], a: str, b: str, count: int
) -> list[list[str]]:
    """The queries that b gains and loses most on."""
    found = differences(values, a, b)
    order = sorted(found, key=lambda key: (found[key], key))
    chosen = [k for k in order[:count] if found[k] < 0] + [
        k for k in order[-count:] if found[k] > 0
    ]
    return [
        ["query", "", a, b, "difference"],
        *(
            [
                "/".join(filter(None, key)),
                texts.get(key, "")[:60],
                f"{values[a]['nDCG@10'][key]:.4f}",
                f"{values[b]['nDCG@10'][key]:.4f}",
                f"{found[key]:+.4f}",
            ]
            for key in chosen
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ensemble.compare", description="runs side by side"
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="TREC files, or folders work/COLLECTION/NAME[/runs/SYSTEM]",
    )
    parser.add_argument("--qrels", type=Path, help="judgments for TREC files")
    parser.add_argument("--split", help="of results; the configuration's test split without it")
    parser.add_argument("--test", choices=list(TESTS), default="randomisation")
    parser.add_argument(
        "--queries",
        type=int,
        default=5,
        help="how many of the queries that differ most to show each way",
    )
    options = parser.parse_args()
    files = [path for path in options.runs if path.is_file()]
    if files and (len(files) < len(options.runs) or not options.qrels):
        raise InputError("TREC files are compared with each other and need --qrels FILE")
    judged = (
        from_files(options.runs, options.qrels)
        if files
        else from_results(options.runs, options.split)
    )
    values = values_of(judged)
    for remark in remarks(judged):
        print(f"note: {remark}")
    print(text_table(mean_rows(values, list(judged.qrels)), left=2))
    if len(values) > 1:
        print(
            f"\nnDCG@10, two-sided paired {options.test} test over {len(next(iter(values.values()))['nDCG@10'])} queries\n{text_table(test_rows(values, options.test), left=2)}"
        )
    for a, b in combinations(values, 2):
        if len(values) == 2 or a == next(iter(values)):
            print(
                f"\n{text_table(query_rows(values, judged.texts, a, b, options.queries), left=2)}"
            )


if __name__ == "__main__":
    exit_with_message(main)
