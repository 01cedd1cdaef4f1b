"""Every system's figures on the dev and test splits, what each stage changes, and the tables of both."""

import json
from collections.abc import Mapping
from statistics import fmean

from core.evaluate import evaluate, holm, macro, means, randomisation_test
from core.files import write_json
from core.judgments import split_judgments
from core.records import Run
from core.steps import Step
from core.task import Task
from ensemble import analysis, estimate, fuse, members, stacking, weights
from ranking import rank, rankers
from retrieval import search

Results = dict[
    str, dict[str, dict[str, dict[str, float]]]
]  # split -> system -> language or group -> metric
PerQuery = dict[
    str, dict[str, dict[tuple[str, str], float]]
]  # split -> system -> (language, query id) -> nDCG@10
TABLE = ("nDCG@10", "R@100", "R@200")


def systems(task: Task) -> list[str]:
    return [*task.config.retrieval.systems, *task.config.ranking.rankers, *fuse.systems(task)]


def run_step(task: Task, system: str, language: str, split: str) -> Step:
    """The step that made a system's run."""
    plans = {**search.plan(task), **rank.plan(task), **fuse.plan(task)}
    return plans[f"{system}/{language}-{split}"]


def judged_pairs(task: Task, split: str) -> list[tuple[str, str]]:
    return [pair for pair in task.pairs(split) if pair in task.collection.qrels]


def report_split(task: Task) -> str | None:
    """What the report is about: the test split if it is judged, otherwise dev, otherwise nothing."""
    s = task.config.splits
    return next((split for split in (s.test, s.dev) if judged_pairs(task, split)), None)


def groups(task: Task, languages: list[str]) -> dict[str, list[str]]:
    """``known`` and ``surprise`` languages, as far as there are any."""
    found = {
        name: [la for la in languages if task.surprise(la) == wanted]
        for name, wanted in (("known", False), ("surprise", True))
    }
    return {name: chosen for name, chosen in found.items() if chosen}


def collect(task: Task) -> tuple[Results, PerQuery, analysis.Looks]:
    """Figures of all systems, means over the known and over the surprise languages beside the languages; and what the report shows of
    its split. Each run is read once."""
    results: Results = {}
    single: PerQuery = {}
    looks: analysis.Looks = {}
    for split in (task.config.splits.dev, task.config.splits.test):
        for la, _ in judged_pairs(task, split):
            qrels = split_judgments(task, la, split)
            runs: dict[str, Run] = {
                system: search.run_of(run_step(task, system, la, split)) for system in systems(task)
            }
            for system, run in runs.items():
                values = evaluate(run, qrels)
                results.setdefault(split, {}).setdefault(system, {})[la] = means(values)
                single.setdefault(split, {}).setdefault(system, {}).update(
                    {(la, q): v for q, v in values["nDCG@10"].items()}
                )
            if split == report_split(task):
                looks[la] = analysis.look(
                    task,
                    la,
                    split,
                    runs,
                    qrels,
                    {s: {q: single[split][s][la, q] for q in qrels} for s in runs},
                )
        for by_language in results.get(split, {}).values():
            by_language |= {
                name: macro(by_language, chosen)
                for name, chosen in groups(task, list(by_language)).items()
            }
    return results, single, looks


def estimates(task: Task) -> list[dict]:
    """What each way of fusing is worth on dev; empty where that could not be estimated."""
    step = fuse.plan(task).get("estimates")
    return json.loads((step.path / "estimates.json").read_text("utf-8")) if step else []


def measured(task: Task, results: Results) -> dict[str, dict[str, float]]:
    """``testA known`` and the like -> method of the estimates -> nDCG@10 of what was fitted on all of dev: for reading, not for choosing.
    As in the estimates, on the reranked block alone."""
    c, split = task.config, task.config.splits.test
    languages = [la for la, _ in judged_pairs(task, split)]
    if not languages or not estimates(task):
        return {}
    dev, s = fuse.dev_judged(task, "ensemble"), estimate.plain(c.ensemble)
    alone = [dev.macro(dev.per_query(scores)) for scores in dev.members.scores]
    best = alone.index(max(alone))
    fitted = {
        name: weights.fit(dev, s, *rule)
        for name, rule in estimate.rules(s, len(fuse.dev_blocks(task))).items()
    }
    found: dict[str, dict[str, float]] = {}
    for la in languages:
        qrels = {(la, q): judged for q, judged in split_judgments(task, la, split).items()}
        runs = members.blocks(task, la, split)

        block, all_runs = (
            weights.Judged(
                weights.aligned_members({n: {la: runs[n]} for n in names}, list(qrels)), qrels
            )
            for names in (dev.members.names, members.members(task, "stacking"))
        )
        values = {
            "best single": block.members.scores[best],
            **{name: weights.apply(block.members, chosen, s) for name, chosen in fitted.items()},
        }
        if "stacking" in systems(task):
            values["stacking"] = stacking.apply(
                fuse.plan(task)["stacking-model"].path, all_runs.members, fuse.texts(task, split)
            )
        for name, value in values.items():
            found.setdefault(name, {})[la] = block.macro(block.per_query(value))
    return {
        f"{split} {group}": {
            name: fmean(by_language[la] for la in chosen) for name, by_language in found.items()
        }
        for group, chosen in groups(task, languages).items()
    }


def bases(task: Task, results: Results) -> dict[str, str]:
    """What each system is compared with: the stage before it, in its best form on dev (without dev judgments, its first)."""
    sources, named = list(task.config.retrieval.sources), list(task.config.ranking.rankers)
    dev = results.get(task.config.splits.dev, {})

    def best(names: list[str]) -> str:
        return (
            max(names, key=lambda n: dev[n].get("known", dev[n].get("surprise"))["nDCG@10"])
            if dev
            else names[0]
        )

    found = {
        **{s: sources[0] for s in sources[1:]},
        "hybrid": best(sources),
        **{n: r.after or "hybrid" for n, r in task.config.ranking.rankers.items()},
        "ensemble-rankers": best(named),
        "ensemble": best([*named, "hybrid"]),
        "stacking": "ensemble",
    }
    return {system: base for system, base in found.items() if system in systems(task)}


def significance(task: Task, results: Results, single: PerQuery) -> dict:
    """split -> system -> ``against`` and, by language and group, the mean difference of nDCG@10 over queries, wins, losses, and p of a
    paired randomisation test; ``holm``: corrected for the systems compared in that column."""
    found: dict = {}
    for split, by_system in single.items():
        languages = list(dict.fromkeys(la for la, _ in next(iter(by_system.values()))))
        columns = {**{la: [la] for la in languages}, **groups(task, languages)}
        for system, base in bases(task, results).items():
            found.setdefault(split, {})[system] = {
                "against": base,
                "columns": {
                    name: paired(by_system[base], by_system[system], chosen, task.config.seed)
                    for name, chosen in columns.items()
                },
            }
        for name in columns:
            cells = [v["columns"][name] for v in found[split].values()]
            for cell, corrected in zip(cells, holm([cell["p"] for cell in cells])):
                cell["holm"] = corrected
    return found


def paired(before: Mapping, after: Mapping, languages: list[str], seed: int) -> dict:
    differences = [v - before[key] for key, v in after.items() if key[0] in languages]
    return {
        "difference": fmean(differences),
        "queries": len(differences),
        "wins": sum(d > 0 for d in differences),
        "losses": sum(d < 0 for d in differences),
        "p": randomisation_test(differences, seed=seed),
    }


def comparison_rows(compared: Mapping, split: str) -> list[list[str]]:
    """The groups' rows of ``significance``."""
    return [
        [
            "system",
            "against",
            "languages",
            "queries",
            "difference",
            "wins",
            "losses",
            "p",
            "p (Holm)",
        ],
        *(
            [
                system,
                v["against"],
                group,
                str(c["queries"]),
                f"{c['difference']:+.4f}",
                str(c["wins"]),
                str(c["losses"]),
                f"{c['p']:.4f}",
                f"{c['holm']:.4f}",
            ]
            for system, v in compared[split].items()
            for group, c in v["columns"].items()
            if group in ("known", "surprise")
        ),
    ]


def table(results: Mapping, split: str, metric: str = "nDCG@10") -> list[list[str]]:
    by_system = results[split]
    columns = list(next(iter(by_system.values())))
    return [
        [metric, *columns],
        *(
            [system, *(f"{values[la][metric]:.4f}" for la in columns)]
            for system, values in by_system.items()
        ),
    ]


def text_table(rows: list[list[str]], left: int = 1) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def transductive(task: Task) -> list[str]:
    """Systems that learnt from unlabelled queries of a split that is evaluated: such rankers, and what fuses them."""
    marked = [n for n in task.config.ranking.rankers if rankers.transductive(task, n)]
    return [*marked, *(fuse.systems(task) if marked else [])]


def target_splits(task: Task) -> list[str]:
    used = {r.recipe for r in task.config.ranking.trainings.values() if r.data is None}
    return list(
        dict.fromkeys(
            split for name in sorted(used) for split in task.config.data_aug[name].targets
        )
    )


def write(task: Task, results: Results, compared: dict) -> None:
    write_json(task.config.folder / "config.json", task.config.model_dump(mode="json"))
    write_json(task.config.folder / "results.json", results)
    write_json(task.config.folder / "significance.json", compared)
    write_json(
        task.config.folder / "transductive.json",
        {"systems": transductive(task), "splits": target_splits(task)},
    )
