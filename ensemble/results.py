"""Every system's figures on the dev and test splits, the table that ends a run, and paired significance."""
from collections.abc import Mapping
from statistics import fmean

from core.evaluate import evaluate, macro, means, randomisation_test, split_judgments
from core.files import write_json
from core.store import Step
from core.task import Task
from ensemble import fuse
from ranking import rank
from retrieval import search

Results = dict[str, dict[str, dict[str, dict[str, float]]]]     # split -> system -> language -> metric
PerQuery = dict[str, dict[str, dict[tuple[str, str], float]]]   # split -> system -> (language, query id) -> nDCG@10
TABLE = ("nDCG@10", "R@100", "R@200")


def systems(task: Task) -> list[str]:
    return [*search.systems(task), *task.config.ranking.rankers, *fuse.SYSTEMS]


def run_step(task: Task, system: str, language: str, split: str) -> Step:
    """The step that made a system's run."""
    plans = {**search.plan(task), **rank.plan(task), **fuse.plan(task)}
    return plans[f"{system}/{language}-{split}"]


def collect(task: Task) -> tuple[Results, PerQuery]:
    """Figures of all systems on dev and test, means over the known and over the surprise languages beside the languages."""
    results: Results = {}
    single: PerQuery = {}
    for split in (task.config.splits.dev, task.config.splits.test):
        pairs = [(la, s) for la, s in task.pairs(split) if (la, s) in task.collection.qrels]
        for system in systems(task) if pairs else ():
            by_language: dict[str, dict[str, float]] = {}
            for la, _ in pairs:
                values = evaluate(search.run_of(run_step(task, system, la, split)), split_judgments(task, la, split))
                by_language[la] = means(values)
                single.setdefault(split, {}).setdefault(system, {}).update({(la, q): v for q, v in values["nDCG@10"].items()})
            for name, wanted in (("known", False), ("surprise", True)):
                languages = [la for la, _ in pairs if task.surprise(la) == wanted]
                if languages:
                    by_language[name] = macro(by_language, languages)
            results.setdefault(split, {})[system] = by_language
    return results, single


def significance(task: Task, single: PerQuery, baseline: str = "hybrid") -> dict:
    """Each later system against the hybrid: mean difference of nDCG@10 over queries, wins, losses, and p of a paired
    randomisation test, on known and surprise languages apart."""
    found: dict = {}
    for split, by_system in single.items():
        for system in systems(task)[len(search.systems(task)):]:
            for group, wanted in (("known", False), ("surprise", True)):
                differences = [v - by_system[baseline][key] for key, v in by_system[system].items() if task.surprise(key[0]) == wanted]
                if differences:
                    found.setdefault(split, {}).setdefault(system, {})[group] = {
                        "difference": fmean(differences), "queries": len(differences), "wins": sum(d > 0 for d in differences),
                        "losses": sum(d < 0 for d in differences), "p": randomisation_test(differences, seed=task.config.seed)}
    return found


def table(results: Mapping, split: str, metric: str = "nDCG@10") -> list[list[str]]:
    by_system = results[split]
    columns = list(next(iter(by_system.values())))
    return [[metric, *columns], *([system, *(f"{values[la][metric]:.4f}" for la in columns)] for system, values in by_system.items())]


def text_table(rows: list[list[str]], left: int = 1) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows)


def write(task: Task, results: Results, compared: dict) -> None:
    write_json(task.config.folder / "results.json", results)
    write_json(task.config.folder / "significance.json", compared)
