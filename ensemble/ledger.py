"""The ledger of submissions: what dev said when a file was made, what the leaderboard said later, and whether the two agree.

    python -m ensemble.ledger CONFIG                                  the table
    python -m ensemble.ledger CONFIG --score ID=0.7132 [--board private]

``work/COLLECTION/ledger.jsonl`` is only ever added to: a score that is typed again stands beside the old one, and the last counts.
"""

import json
import time
from pathlib import Path
from statistics import fmean

from core.config import from_arguments
from core.errors import InputError, at_line, exit_with_message
from core.files import file_digest, locked
from core.runs import finite, text_lines
from core.settings import Config
from ensemble.results import text_table


def path_of(config: Config) -> Path:
    return config.home / "ledger.jsonl"


def read(path: Path) -> list[dict]:
    found = []
    for number, line in enumerate(text_lines(path) if path.exists() else (), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            raise at_line(
                path,
                number,
                repr(line[:60]),
                "a JSON object; a stopped process may have left half a line: remove it",
            ) from None
    return found


def append(path: Path, entry: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(".ledger-lock")), path.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry}, ensure_ascii=False)
            + "\n"
        )


def note(config: Config, submission: Path, dev: dict[str, float], estimate: float | None) -> str:
    """Enters a submission (once; its id is the start of its digest). ``dev``: nDCG@10 by language; ``estimate``: its nested one."""
    number = file_digest(submission, config.home / "digests")[:10]
    if not any(e.get("submission") == number for e in read(path_of(config))):
        append(
            path_of(config),
            {
                "submission": number,
                "name": config.name,
                "system": config.submission.system,
                "profile": config.submission.profile,
                "dev": dev,
                "nested": estimate,
            },
        )
    return number


def enter_score(config: Config, text: str, board: str) -> None:
    number, _, value = text.partition("=")
    known = [e["submission"] for e in read(path_of(config)) if "submission" in e]
    if number not in known:
        raise InputError(
            f"--score {text}: no submission {number!r} in {path_of(config)}; known: {', '.join(known) or 'none'}"
        )
    append(
        path_of(config), {"score_of": number, "board": board, "score": finite("--score", 1, value)}
    )


def table(entries: list[dict]) -> tuple[list[list[str]], dict[str, list[tuple[float, float]]]]:
    """Rows, and by board the pairs (dev mean, leaderboard score)."""
    scores = {(e["score_of"], e["board"]): e["score"] for e in entries if "score_of" in e}
    boards = list(dict.fromkeys(board for _, board in scores))
    languages = list(dict.fromkeys(la for e in entries for la in e.get("dev", ())))
    rows, pairs = (
        [["id", "time", "name", "system", "dev", "nested", *languages, *boards]],
        {board: [] for board in boards},
    )
    for e in entries:
        if "submission" not in e:
            continue
        mean = fmean(e["dev"].values()) if e["dev"] else None
        for board in boards:
            if mean is not None and (e["submission"], board) in scores:
                pairs[board].append((mean, scores[e["submission"], board]))
        numbers = [
            mean,
            e["nested"],
            *(e["dev"].get(la) for la in languages),
            *(scores.get((e["submission"], b)) for b in boards),
        ]
        rows.append(
            [
                e["submission"],
                e["time"],
                e["name"],
                e["system"],
                *("" if v is None else f"{v:.4f}" for v in numbers),
            ]
        )
    return rows, pairs


def correlation(pairs: list[tuple[float, float]]) -> str:
    """Pearson's r and Spearman's rho of dev and leaderboard, in words."""
    from scipy.stats import pearsonr, spearmanr

    dev, board = zip(*pairs) if pairs else ((), ())
    if len(set(dev)) < 3 or len(set(board)) < 2:
        return (
            f"{len(pairs)} scores: a correlation needs three submissions with different dev scores"
        )
    return f"{len(pairs)} scores: Pearson {pearsonr(dev, board).statistic:+.3f}, Spearman {spearmanr(dev, board).statistic:+.3f}"


def main() -> None:
    def add(parser):
        parser.add_argument(
            "--score", metavar="ID=NUMBER", help="a leaderboard's score of a submission"
        )
        parser.add_argument("--board", default="public", help="which leaderboard")

    config, options = from_arguments("submissions, their dev scores and the leaderboard's", add)
    if options.score:
        enter_score(config, options.score, options.board)
    rows, pairs = table(read(path_of(config)))
    print(text_table(rows, left=4))
    for board, found in pairs.items():
        print(f"dev against {board}: {correlation(found)}")


if __name__ == "__main__":
    exit_with_message(main)
