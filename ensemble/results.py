"""Every system's figures on dev and test, what each stage changes, and the tables of both."""

import json
from collections.abc import Mapping, Sequence

from core.artefacts import RankedRun
from core.evaluate import (
    evaluate,
    holm,
    macro,
    mean_over_languages,
    means,
    randomisation_test,
)
from core.files import write_json
from core.fusion import Aligned
from core.judgments import split_judgments
from core.steps import Step
from core.task import Task
from ensemble import analysis, estimate, fuse, members, stacking, weights
from ranking import rankers

Key = tuple[str, str]  # (language, query id)
ByColumn = dict[str, dict[str, float]]  # language, "known" or "surprise" -> metric -> mean
Results = dict[str, dict[str, ByColumn]]  # split -> system -> …
PerQuery = dict[str, dict[str, dict[Key, float]]]  # split -> system -> query -> nDCG@10

KINDS = ("known", "surprise")
TABLE = ("nDCG@10", "R@100", "R@200")


def systems(task: Task) -> list[str]:
    """All that have runs, in the order of the stages."""
    return [*task.config.retrieval.systems, *task.config.ranking.rankers, *fuse.systems(task)]


def run_step(task: Task, system: str, language: str, split: str) -> Step:
    """The step that made a system's run."""
    fuse.plan(task)  # and with it all stages below, so that every run is published
    return task.step(RankedRun(system, language, split))


def judged_languages(task: Task, split: str) -> list[str]:
    """Languages that have judgments of a split."""
    return [la for la, _ in task.pairs(split) if (la, split) in task.collection.qrels]


def report_split(task: Task) -> str | None:
    """What the report is about: the test split if it is judged, else dev, else nothing."""
    for split in (task.config.splits.test, task.config.splits.dev):
        if judged_languages(task, split):
            return split
    return None


def by_kind(task: Task, languages: Sequence[str]) -> dict[str, list[str]]:
    """The ``known`` and the ``surprise`` ones of ``languages``, as far as there are any."""
    kinds = {}
    for kind in KINDS:
        chosen = [la for la in languages if task.surprise(la) == (kind == "surprise")]
        if chosen:
            kinds[kind] = chosen
    return kinds


def collect(task: Task) -> tuple[Results, PerQuery, analysis.Looks]:
    """Figures of all systems by language and as means over languages, each query's, and the looks.

    Looks are what the report shows of its split beyond averages. Each run is read once.
    """
    fuse.plan(task)  # publishes the runs
    results: Results = {}
    single: PerQuery = {}
    looks: analysis.Looks = {}
    for split in (task.config.splits.dev, task.config.splits.test):
        languages = judged_languages(task, split)
        for language in languages:
            qrels = split_judgments(task, language, split)
            runs = {}
            for system in systems(task):
                runs[system] = task.run(system, language, split)
            ndcg: dict[str, dict[str, float]] = {}
            for system, run in runs.items():
                values = evaluate(run, qrels)
                ndcg[system] = values["nDCG@10"]
                by_column = results.setdefault(split, {}).setdefault(system, {})
                by_column[language] = means(values)
                by_query = single.setdefault(split, {}).setdefault(system, {})
                for qid, value in ndcg[system].items():
                    by_query[language, qid] = value
            if split == report_split(task):
                looks[language] = analysis.look(
                    task=task,
                    language=language,
                    split=split,
                    runs=runs,
                    qrels=qrels,
                    values=ndcg,
                )
        for by_column in results.get(split, {}).values():
            for kind, chosen in by_kind(task, languages).items():
                by_column[kind] = macro(by_column, chosen)
    return results, single, looks


def estimates(task: Task) -> list[dict]:
    """What each way of fusing is worth on dev; empty where that could not be estimated."""
    step = fuse.plan(task).get("estimates")
    if step is None:
        return []
    return json.loads((step.path / "estimates.json").read_text("utf-8"))


def measured(task: Task) -> dict[str, dict[str, float]]:
    """``testA known`` and the like -> method of the estimates -> nDCG@10 of it, fitted on dev.

    For reading, not for choosing. As in the estimates, on the reranked block alone; empty without
    estimates or judgments of the test split.
    """
    split = task.config.splits.test
    languages = judged_languages(task, split)
    if not languages or not estimates(task):
        return {}
    fitted = fitted_weights(task)
    best = best_single(task)
    by_language = {}
    for language in languages:
        by_language[language] = measured_in(task, language, split, fitted, best)
    columns = {}
    for kind, chosen in by_kind(task, languages).items():
        columns[f"{split} {kind}"] = macro(by_language, chosen)
    return columns


def fitted_weights(task: Task) -> dict[str, dict]:
    """Method of the estimates -> its weights, fitted on all of dev."""
    dev = fuse.dev_judged(task, "ensemble")
    settings = estimate.plain(task.config.ensemble)
    rules = estimate.rules(settings, len(fuse.dev_blocks(task)))
    fitted = {}
    for method, (rule, shrink) in rules.items():
        fitted[method] = weights.fit(dev, settings, rule, shrink)
    return fitted


def best_single(task: Task) -> int:
    """The place of the member with the highest nDCG@10 on dev; of equal ones the first."""
    dev = fuse.dev_judged(task, "ensemble")
    alone = [dev.macro(dev.per_query(scores)) for scores in dev.members.scores]
    return alone.index(max(alone))


def measured_in(
    task: Task, language: str, split: str, fitted: Mapping[str, dict], best: int
) -> dict[str, float]:
    """Method of the estimates -> nDCG@10 on a language's reranked block.

    ``fitted``: the methods' weights; ``best``: the place of the member that is used alone.
    """
    settings = estimate.plain(task.config.ensemble)
    qrels: dict[Key, dict[str, int]] = {}
    for qid, judged in split_judgments(task, language, split).items():
        qrels[language, qid] = judged
    runs = members.blocks(task, language, split)

    def aligned(names: Sequence[str]) -> Aligned:
        chosen = {name: {language: runs[name]} for name in names}
        return weights.aligned_members(chosen, list(qrels))

    block = weights.Judged(aligned(members.members(task)), qrels)
    fused = {"best single": block.members.scores[best]}
    for method, chosen in fitted.items():
        fused[method] = weights.apply(block.members, chosen, settings)
    if "stacking" in systems(task):
        fused["stacking"] = stacking.apply(
            fuse.plan(task)["stacking-model"].path,
            aligned(members.members(task, "stacking")),
            fuse.texts(task, split),
        )
    means = {}
    for method, values in fused.items():
        means[method] = block.macro(block.per_query(values))
    return means


def bases(task: Task, results: Results) -> dict[str, str]:
    """What each system is compared with: the stage before it, in its best form on dev.

    Without dev judgments it is the first of that stage.
    """
    sources = task.config.retrieval.sources
    named = list(task.config.ranking.rankers)
    dev = results.get(task.config.splits.dev, {})

    def on_dev(system: str) -> float:
        by_column = dev[system]
        kind = "known" if "known" in by_column else "surprise"
        return by_column[kind]["nDCG@10"]

    def best(candidates: Sequence[str]) -> str:
        return max(candidates, key=on_dev) if dev else candidates[0]

    base_of: dict[str, str] = dict.fromkeys(sources[1:], sources[0])
    base_of["hybrid"] = best(sources)
    for name, ranker in task.config.ranking.rankers.items():
        base_of[name] = ranker.after or "hybrid"
    base_of["ensemble-rankers"] = best(named)
    base_of["ensemble"] = best([*named, "hybrid"])
    base_of["stacking"] = "ensemble"
    return {system: base for system, base in base_of.items() if system in systems(task)}


def significance(task: Task, results: Results, single: PerQuery) -> dict:
    """By split and system: ``against``, and ``columns``, language or kind -> ``paired`` figures.

    ``holm`` in them is p corrected for the systems compared in that column.
    """
    compared: dict = {}
    for split, by_system in single.items():
        queries = next(iter(by_system.values()))
        columns = {language: [language] for language, _ in queries}
        columns |= by_kind(task, list(columns))
        rows = compared[split] = {}
        for system, base in bases(task, results).items():
            rows[system] = {"against": base, "columns": {}}
            for column, chosen in columns.items():
                rows[system]["columns"][column] = paired(
                    before=by_system[base],
                    after=by_system[system],
                    languages=chosen,
                    seed=task.config.seed,
                )
        for column in columns:
            cells = [row["columns"][column] for row in rows.values()]
            corrected = holm([cell["p"] for cell in cells])
            for cell, p in zip(cells, corrected, strict=True):
                cell["holm"] = p
    return compared


def paired(
    before: Mapping[Key, float], after: Mapping[Key, float], languages: Sequence[str], seed: int
) -> dict:
    """Of ``languages``: the difference of the means over languages, as tables show them.

    With the number of queries, those won and lost, and p of a randomisation test of that very
    difference.
    """
    differences: list[float] = []
    language_of_each: list[str] = []
    for key, value in after.items():
        language, _ = key
        if language in languages:
            differences.append(value - before[key])
            language_of_each.append(language)
    return {
        "difference": mean_over_languages(differences, language_of_each),
        "queries": len(differences),
        "wins": sum(difference > 0 for difference in differences),
        "losses": sum(difference < 0 for difference in differences),
        "p": randomisation_test(differences, language_of_each, seed=seed),
    }


def comparison_rows(compared: Mapping, split: str) -> list[list[str]]:
    """A table of ``significance``: the means over known and surprise languages."""
    head = "system", "against", "languages", "queries", "difference", "wins", "losses", "p"
    rows = [[*head, "p (Holm)"]]
    for system, note in compared[split].items():
        for kind in KINDS:
            cell = note["columns"].get(kind)
            if cell is not None:
                rows.append([system, note["against"], kind, *comparison_cells(cell)])
    return rows


def comparison_cells(cell: Mapping) -> list[str]:
    """Figures of ``paired`` as text: queries, difference, wins, losses, p and Holm's."""
    return [
        str(cell["queries"]),
        f"{cell['difference']:+.4f}",
        str(cell["wins"]),
        str(cell["losses"]),
        f"{cell['p']:.4f}",
        f"{cell['holm']:.4f}",
    ]


def table(results: Mapping, split: str, metric: str = "nDCG@10") -> list[list[str]]:
    """A row a system, a column a language or kind."""
    by_system = results[split]
    columns = list(next(iter(by_system.values())))
    rows = [[metric, *columns]]
    for system, by_column in by_system.items():
        cells = [f"{by_column[column][metric]:.4f}" for column in columns]
        rows.append([system, *cells])
    return rows


def text_table(rows: list[list[str]], left: int = 1) -> str:
    """Aligned columns for a terminal: the first ``left`` to the left, the others to the right."""
    widths = [0] * len(rows[0])
    for row in rows:
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell))
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padded = cell.ljust(width) if column < left else cell.rjust(width)
            cells.append(padded)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def transductive(task: Task) -> list[str]:
    """Systems that learnt from unlabelled queries of a split that is evaluated.

    Such rankers, and what fuses them.
    """
    names = task.config.ranking.rankers
    marked = [name for name in names if rankers.transductive(task, name)]
    return [*marked, *fuse.systems(task)] if marked else []


def target_splits(task: Task) -> list[str]:
    """Splits whose unlabelled queries the recipes in use learn from."""
    recipes = set()
    for training in task.config.ranking.trained.values():
        if training.data is None:
            recipes.add(training.recipe)
    splits: dict[str, None] = {}
    for recipe in sorted(recipes):
        splits |= dict.fromkeys(task.config.data_aug[recipe].targets)
    return list(splits)


def write(task: Task, results: Results, compared: dict) -> None:
    """The configuration and all figures as JSON files of its folder."""
    folder = task.config.folder
    write_json(folder / "config.json", task.config.model_dump(mode="json"))
    write_json(folder / "results.json", results)
    write_json(folder / "significance.json", compared)
    write_json(
        folder / "transductive.json",
        {"systems": transductive(task), "splits": target_splits(task)},
    )
