"""Runs side by side: figures by language, paired tests, and the queries that differ most.

Tests are of the mean over languages of nDCG@10, which is what the tables show, and are corrected
for their number.

python -m ensemble.compare --qrels QRELS a.trec b.trec …              TREC files of one language
python -m ensemble.compare work/COLLECTION/NAME work/COLLECTION/OTHER  results; submitted systems
python -m ensemble.compare work/COLLECTION/NAME/runs/hybrid work/COLLECTION/NAME/runs/ensemble \
    [--split dev]
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from pydantic import ValidationError

from core.collection import read_qrels
from core.config import count_argument
from core.errors import InputError, exit_with_message
from core.evaluate import TESTS, evaluate, holm, mean_over_languages, of_each_language
from core.judgments import split_judgments
from core.records import Qrels, Run
from core.runs import read_run
from core.settings import Config
from core.stored import damaged, stored_json
from core.task import Task
from ensemble.results import Key, judged_languages, text_table

METRICS = ("nDCG@10", "R@100")
EXAMPLES = 3  # of queries that a remark names
TEXT_WIDTH = 60  # characters of a query that are shown
Values = Mapping[str, Mapping[str, Mapping[Key, float]]]  # run -> metric -> query -> value


@dataclass(frozen=True)
class Compared:
    """Runs by name and language, with the judgments and the texts of the queries.

    TREC files are of the language "".
    """

    runs: dict[str, dict[str, Run]]
    qrels: dict[str, Qrels]
    texts: dict[Key, str]


def from_files(paths: Sequence[Path], qrels: Path) -> Compared:
    """TREC runs of one language, named by their paths."""
    runs = {}
    for name, path in zip(short_names(paths), paths, strict=True):
        runs[name] = {"": read_run(path)}
    return Compared(runs=runs, qrels={"": read_qrels(qrels)}, texts={})


def from_results(paths: Sequence[Path], split: str | None) -> Compared:
    """``paths``: folders NAME or NAME/runs/SYSTEM of one collection.

    ``split``: the first one's test split without it. Raises InputError where it has no judgments,
    and where the queries of two results differ.
    """
    tasks = {path: task_of(path) for path in paths}
    first = tasks[paths[0]]
    split = split or first.config.splits.test
    languages = judged_languages(first, split)
    if not languages:
        raise InputError(
            f"{paths[0]}: no language has judgments for {split}; choose another with --split"
        )
    for path, task in tasks.items():
        for language in languages:
            if not same_queries(task, first, language, split):
                raise InputError(
                    f"{path}: its queries of {language}-{split} are not those of {paths[0]}; "
                    "compare results of one collection, made with the same limit, seed and "
                    "languages"
                )
    runs: dict[str, dict[str, Run]] = {}
    for name, path in zip(short_names(paths), paths, strict=True):
        folder = run_folder(path)
        runs[name] = {la: read_run(folder / f"{la}-{split}.trec") for la in languages}
    qrels = {}
    texts = {}
    for language in languages:
        qrels[language] = split_judgments(first, language, split)
        for query in first.queries(language, split):
            texts[language, query.qid] = query.text
    return Compared(runs=runs, qrels=qrels, texts=texts)


def same_queries(task: Task, other: Task, language: str, split: str) -> bool:
    """Whether the queries in use of a language and split are the same, with their texts."""
    if (language, split) not in task.pairs(split):
        return False
    own = task.topics_input(language, split)
    others = other.topics_input(language, split)
    return own.fingerprint == others.fingerprint


def task_of(path: Path) -> Task:
    """The configuration that made the results at ``path``, from the file that they hold."""
    for folder in (path, *path.parents[:2]):
        file = folder / "config.json"
        if file.is_file():
            try:
                return Task(Config.model_validate(stored_json(file)))
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(str(key) for key in fault["loc"])
                raise damaged(file, f"{where}: {fault['msg']}") from None
    raise InputError(
        f"{path}: neither a TREC file nor a folder work/COLLECTION/NAME or "
        "work/COLLECTION/NAME/runs/SYSTEM of a finished run"
    )


def run_folder(path: Path) -> Path:
    """A system's own folder, or of a configuration's that of the system that it hands in."""
    if not (path / "config.json").is_file():
        return path
    return path / "runs" / task_of(path).config.submission.system


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    longest = max(len(path.parts) for path in paths)
    for parts in range(1, longest + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{paths[0]} is named twice; expected different runs")


def values_of(judged: Compared) -> dict[str, dict[str, dict[Key, float]]]:
    """Run -> metric -> query -> value; every judged query counts, an unanswered one as 0.

    Raises InputError for a run that holds none of the judged queries or of their judged passages:
    it is of another collection.
    """
    values: dict[str, dict[str, dict[Key, float]]] = {}
    for name, by_language in judged.runs.items():
        of_run = values[name] = {metric: {} for metric in METRICS}
        for language, run in by_language.items():
            qrels = judged.qrels[language]
            check_of_collection(run, qrels, where=f"{name} {language}".rstrip())
            for metric, by_query in evaluate(run, qrels, METRICS).items():
                for qid, value in by_query.items():
                    of_run[metric][language, qid] = value
    return values


def check_of_collection(run: Run, qrels: Qrels, where: str) -> None:
    """Raises InputError unless the run answers a judged query with a judged passage."""
    answered = run.keys() & qrels.keys()
    if not answered:
        raise InputError(
            f"{where}: answers none of the {len(qrels)} judged queries; "
            "is it a run of this collection, language and split?"
        )
    if not any(run[qid].keys() & qrels[qid].keys() for qid in answered):
        raise InputError(
            f"{where}: holds none of the judged passages; is it a run of another collection?"
        )


def remarks(judged: Compared) -> list[str]:
    """What makes runs unequal: queries unanswered, other depths, constant scores."""
    lines = []
    depths = {}
    for name, by_language in judged.runs.items():
        unanswered: list[Key] = []
        constant: list[Key] = []
        depths[name] = 0
        for language, qrels in judged.qrels.items():
            run = by_language[language]
            unanswered += [(language, qid) for qid in qrels if not run.get(qid)]
            for qid, scores in run.items():
                depths[name] = max(depths[name], len(scores))
                if len(scores) > 1 and len(set(scores.values())) == 1:
                    constant.append((language, qid))
        if unanswered:
            what = "judged queries unanswered, they count as 0"
            lines.append(f"{name}: {len(unanswered)} {what}; first {examples(unanswered)}")
        if constant:
            what = "queries with all scores equal, their order is by docid alone"
            lines.append(f"{name}: {len(constant)} {what}; first {examples(constant)}")
    if len(set(depths.values())) > 1:
        each = ", ".join(f"{name} {depth}" for name, depth in depths.items())
        lines.append(f"depths differ: {each}; recall below the smallest is not comparable")
    return lines


def examples(keys: Sequence[Key]) -> str:
    """The first few of many queries."""
    return ", ".join(shown(key) for key in keys[:EXAMPLES])


def shown(key: Key) -> str:
    """``LANGUAGE/QID``, or the id alone where the language has no name."""
    language, qid = key
    return f"{language}/{qid}" if language else qid


def mean_rows(values: Values, languages: Sequence[str]) -> list[list[str]]:
    """A row a metric and run: each language's mean, and the mean over languages."""
    named = [language for language in languages if language]
    rows = [["metric", "run", *named, "mean"]]
    for metric in METRICS:
        for name in values:
            means = language_means(values[name][metric])
            row = [metric, name]
            row += [f"{means[language]:.4f}" for language in named]
            row.append(f"{fmean(means[language] for language in languages):.4f}")
            rows.append(row)
    return rows


def language_means(by_query: Mapping[Key, float]) -> dict[str, float]:
    """Language -> mean over its queries."""
    own = of_each_language(list(by_query.values()), languages_of(by_query))
    return {language: fmean(values) for language, values in own.items()}


def differences(values: Values, a: str, b: str) -> dict[Key, float]:
    """nDCG@10 of b less that of a, by query."""
    of_a = values[a]["nDCG@10"]
    of_b = values[b]["nDCG@10"]
    return {key: value - of_a[key] for key, value in of_b.items()}


def test_rows(values: Values, test: str) -> list[list[str]]:
    """Every pair of runs: difference of mean nDCG@10, wins, ties, losses, p and Holm's.

    The means are those over languages, and ``test``, one of TESTS, is of their difference.
    """
    rows = []
    ps = []
    for a, b in combinations(values, 2):
        by_query = differences(values, a, b)
        gains = list(by_query.values())
        languages = languages_of(by_query)
        p = TESTS[test](gains, languages)
        signs = Counter(np.sign(gains).tolist())
        difference = f"{mean_over_languages(gains, languages):+.4f}"
        counts = [str(signs[1.0]), str(signs[0.0]), str(signs[-1.0])]
        rows.append([b, a, difference, *counts, f"{p:.4f}"])
        ps.append(p)
    for row, corrected in zip(rows, holm(ps), strict=True):
        row.append(f"{corrected:.4f}")
    return [["better?", "than", "difference", "wins", "ties", "losses", "p", "p (Holm)"], *rows]


def languages_of(by_query: Mapping[Key, float]) -> list[str]:
    """Each query's language."""
    return [language for language, _ in by_query]


def query_rows(
    values: Values, texts: Mapping[Key, str], a: str, b: str, count: int
) -> list[list[str]]:
    """The queries that b gains and loses most on, ``count`` of each."""
    gains = differences(values, a, b)
    order = sorted(gains, key=lambda key: (gains[key], key))
    lost = [key for key in order[:count] if gains[key] < 0]
    won = [key for key in order[max(len(order) - count, 0) :] if gains[key] > 0]
    rows = [["query", "", a, b, "difference"]]
    for key in lost + won:
        of_a, of_b = values[a]["nDCG@10"][key], values[b]["nDCG@10"][key]
        text = texts.get(key, "")[:TEXT_WIDTH]
        rows.append([shown(key), text, f"{of_a:.4f}", f"{of_b:.4f}", f"{gains[key]:+.4f}"])
    return rows


def report(judged: Compared, test: str, queries: int) -> None:
    """Prints remarks, means, tests, and of two runs or of the first and each other the queries."""
    values = values_of(judged)
    for remark in remarks(judged):
        print(f"note: {remark}")
    print(text_table(mean_rows(values, list(judged.qrels)), left=2))
    if len(values) > 1:
        count = sum(map(len, judged.qrels.values()))
        over = f"over {count} queries"
        if len(judged.qrels) > 1:
            over = f"of the mean over {len(judged.qrels)} languages, {count} queries"
        print(f"\nnDCG@10, two-sided paired {test} test {over}")
        print(text_table(test_rows(values, test), left=2))
    first, *others = values
    for other in others:
        rows = query_rows(values, judged.texts, first, other, queries)
        print(f"\n{text_table(rows, left=2)}")


def main() -> None:
    """The command line."""
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
    parser.add_argument(
        "--test",
        choices=list(TESTS),
        default="randomisation",
        help="of the mean over languages: signs drawn a query, or a t-test with Welch's degrees "
        "of freedom",
    )
    parser.add_argument(
        "--queries",
        type=count_argument,
        default=5,
        help="how many of the queries that differ most to show each way",
    )
    options = parser.parse_args()
    files = [path for path in options.runs if path.is_file()]
    if files and (len(files) < len(options.runs) or not options.qrels):
        raise InputError("TREC files are compared with each other and need --qrels FILE")
    if files:
        judged = from_files(options.runs, options.qrels)
    else:
        judged = from_results(options.runs, options.split)
    report(judged, options.test, options.queries)


if __name__ == "__main__":
    exit_with_message(main)
