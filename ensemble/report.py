"""The report: one static HTML file without scripts, network or fonts of its own. All text from data is escaped."""
import json
from collections.abc import Sequence
from html import escape

from core.files import finished_file
from core.task import Task
from ensemble import fuse, results, weights

COLOURS = ("#9aa5b1", "#5b8def", "#2f4b7c", "#e0a458", "#d1603d", "#7b9e89", "#a06cd5", "#4caf7a", "#c94c7c", "#777")
STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; }
figure { display: inline-block; margin: .5rem; } figcaption { text-align: center; }
svg text { font: 10px system-ui, sans-serif; fill: currentColor; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: 1rem; }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
"""


def html_table(rows: Sequence[Sequence[str]], mark_best: bool = False) -> str:
    """A table; with ``mark_best`` the highest number of each column is bold."""
    head, *body = rows
    best = [max((row[i] for row in body), default="") if mark_best and i else None for i in range(len(head))]
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        lines.append("<tr>" + "".join(f"<td{' class=best' if cell == best[i] else ''}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def bars(title: str, values: dict[str, float]) -> str:
    """A bar a system, 0 to 1, with its value on top."""
    width, height = 26 * len(values), 120
    parts = [f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="currentColor" stroke-opacity=".4"/>']
    for i, (system, value) in enumerate(values.items()):
        tall = height * value
        parts.append(f'<rect x="{26 * i + 3}" y="{height - tall:.1f}" width="20" height="{tall:.1f}" fill="{COLOURS[i % len(COLOURS)]}"><title>{escape(system)} {value:.4f}</title></rect>')
        parts.append(f'<text x="{26 * i + 13}" y="{height - tall - 3:.1f}" text-anchor="middle">{value:.2f}</text>')
    return (f'<figure><svg role="img" aria-label="nDCG@10, {escape(title)}" viewBox="0 -14 {width} {height + 16}" width="{width}" height="{height + 16}">'
            f'{"".join(parts)}</svg><figcaption>{escape(title)}</figcaption></figure>')


def split_section(found: dict, split: str) -> str:
    by_system = found[split]
    key = "".join(f'<span style="background:{COLOURS[i % len(COLOURS)]}"></span>{escape(s)}' for i, s in enumerate(by_system))
    columns = next(iter(by_system.values()))
    tables = "".join(f"<h3>{metric}</h3>{html_table(results.table(found, split, metric), True)}" for metric in results.TABLE)
    plots = "".join(bars(la, {s: values[la]["nDCG@10"] for s, values in by_system.items()}) for la in columns)
    return f"<h2>{escape(split)}</h2>{tables}<h3>nDCG@10 by language</h3><p class=key>{key}</p>{plots}"


def comparison_rows(compared: dict) -> list[list[str]]:
    return [["against the hybrid", "split", "languages", "queries", "difference", "wins", "losses", "p"], *(
        [system, split, group, str(v["queries"]), f"{v['difference']:+.4f}", str(v["wins"]), str(v["losses"]), f"{v['p']:.4f}"]
        for split, by_system in compared.items() for system, groups in by_system.items() for group, v in groups.items())]


def weights_section(task: Task) -> str:
    parts = []
    for system in fuse.SYSTEMS:
        found = fuse.chosen_weights(task, system)
        scores = found.get("dev nDCG@10", {})
        rows = [["member", "weight", "dev nDCG@10"], *([n, f"{w:.4f}", f"{scores[n]:.4f}" if n in scores else ""] for n, w in found["weights"].items())]
        parts.append(f"<h3>{escape(system)} (rule: {escape(found['rule'])})</h3>{html_table(rows)}")
        if "correlations" in found:
            parts.append("<p>Mean per-query correlation of normalised dev scores</p>" + html_table([*weights.matrix_rows(found["correlations"])]))
    return "".join(parts)


def times(task: Task) -> list[list[str]]:
    """Seconds and peak memory by stage and kind of step, each step's last building."""
    log = task.config.folder / "log.jsonl"
    last = {e["step"]: e for e in map(json.loads, log.read_text("utf-8").splitlines())} if log.exists() else {}
    totals: dict[tuple[str, str], list] = {}
    for name, entry in last.items():
        total = totals.setdefault((entry["stage"], name if name.startswith("ranker/") else name.split("/")[0]), [0, 0.0, 0])
        total[0], total[1], total[2] = total[0] + 1, total[1] + entry["seconds"], max(total[2], entry["peak_bytes"])
    return [["stage", "step", "outputs", "seconds", "peak GB"], *([s, k, str(n), f"{t:.1f}", f"{m / 1e9:.2f}"] for (s, k), (n, t, m) in totals.items())]


def write(task: Task, found: dict, compared: dict) -> None:
    c = task.config
    body = "".join(split_section(found, split) for split in reversed(found))
    config = json.dumps(c.model_dump(mode="json"), ensure_ascii=False, indent=1)
    with finished_file(c.folder / "report" / "index.html") as file:
        file.write(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(c.collection_name)}, {escape(c.name)}</title><style>{STYLE}</style></head><body>
<h1>{escape(c.collection_name)}: {escape(c.name)}</h1>
<p>{len(task.languages)} languages; surprise (no training queries): {escape(', '.join(la for la in task.languages if task.surprise(la)) or 'none')}. Every judged query counts; unanswered ones as 0. Means weigh languages alike.</p>
{body}
<h2>Significance</h2><p>nDCG@10 per query, two-sided paired randomisation test.</p>{html_table(comparison_rows(compared))}
<h2>Weights</h2>{weights_section(task)}
<h2>Time and memory</h2>{html_table(times(task))}
<h2>Configuration</h2><pre dir="auto">{escape(config)}</pre>
</body></html>
""")
