"""The ledger of submissions: what dev said of a file, and what the leaderboard said later.

    python -m ensemble.ledger CONFIG                                  the table
    python -m ensemble.ledger CONFIG --score ID=0.7132 [--board private]

``work/COLLECTION/ledger.jsonl`` is only ever added to: a score that is typed again stands beside
the old one, and the last counts.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

from core.config import from_arguments
from core.errors import InputError, at_line, exit_with_message
from core.files import file_digest, locked
from core.settings import Config
from core.text import finite, json_value, shortened, text_lines
from ensemble.results import text_table

Pair = tuple[float, float]  # (dev mean, leaderboard score)


def path_of(config: Config) -> Path:
    """The ledger of the configuration's collection."""
    return config.home / "ledger.jsonl"


def read(path: Path) -> list[dict]:
    """Its entries, none where there is no ledger yet; raises InputError for a line that is none."""
    entries: list[dict] = []
    if not path.exists():
        return entries
    for number, line in enumerate(text_lines(path), 1):
        expected = "a JSON object; a stopped process may have left half a line: remove it"
        entry = json_value(path, number, line, expected)
        if not is_entry(entry):
            raise at_line(path, number, shortened(line), "an entry of a submission or of a score")
        entries.append(entry)
    return entries


def is_entry(value: object) -> bool:
    """Whether it is a submission or a leaderboard's score of one, as they are written here."""
    if not isinstance(value, dict):
        return False
    if "score_of" in value:
        is_score = isinstance(value.get("score"), float | int)
        return is_score and all(isinstance(value.get(key), str) for key in ("score_of", "board"))
    texts = [value.get(key) for key in ("submission", "time", "name", "system")]
    dev, nested = value.get("dev"), value.get("nested")
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(dev, dict)
        and all(isinstance(number, float | int) for number in dev.values())
        and (nested is None or isinstance(nested, float | int))
    )


def append(path: Path, entry: dict) -> None:
    """Adds an entry, with the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry}
    with locked(path.with_name(".ledger-lock")), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dated, ensure_ascii=False) + "\n")


def note(config: Config, submission: Path, dev: dict[str, float], nested: float | None) -> str:
    """Enters a submission, once; returns its id, the start of its digest.

    ``dev``: its system's nDCG@10 by language; ``nested``: the estimate of it.
    """
    number = file_digest(submission, config.home / "digests")[:10]
    known = [entry.get("submission") for entry in read(path_of(config))]
    if number not in known:
        entry = {
            "submission": number,
            "name": config.name,
            "system": config.submission.system,
            "profile": config.submission.profile,
            "dev": dev,
            "nested": nested,
        }
        append(path_of(config), entry)
    return number


def enter_score(config: Config, text: str, board: str) -> None:
    """A leaderboard's score of a submission, ``text`` being ID=NUMBER; raises InputError."""
    number, _, value = text.partition("=")
    entries = read(path_of(config))
    known = [entry["submission"] for entry in entries if "submission" in entry]
    if number not in known:
        raise InputError(
            f"--score {text}: no submission {number!r} in {path_of(config)}; "
            f"known: {', '.join(known) or 'none'}"
        )
    score = finite(Path("--score"), 1, value)
    append(path_of(config), {"score_of": number, "board": board, "score": score})


def table(entries: list[dict]) -> tuple[list[list[str]], dict[str, list[Pair]]]:
    """Rows with a head, and by board the pairs that say whether dev and it agree."""
    submissions = [entry for entry in entries if "submission" in entry]
    scores = {}  # (submission, board) -> its last score
    for entry in entries:
        if "score_of" in entry:
            scores[entry["score_of"], entry["board"]] = entry["score"]
    boards = list(dict.fromkeys(board for _, board in scores))
    in_order: dict[str, None] = {}
    for entry in submissions:
        in_order |= dict.fromkeys(entry["dev"])
    languages = list(in_order)
    rows = [["id", "time", "name", "system", "dev", "nested", *languages, *boards]]
    pairs: dict[str, list[Pair]] = {board: [] for board in boards}
    for entry in submissions:
        number = entry["submission"]
        dev = entry["dev"]
        mean = fmean(dev.values()) if dev else None
        on_boards = [scores.get((number, board)) for board in boards]
        for board, score in zip(boards, on_boards, strict=True):
            if mean is not None and score is not None:
                pairs[board].append((mean, score))
        by_language = [dev.get(la) for la in languages]
        numbers = [shown(value) for value in (mean, entry["nested"], *by_language, *on_boards)]
        rows.append([number, entry["time"], entry["name"], entry["system"], *numbers])
    return rows, pairs


def shown(value: float | None) -> str:
    """A number of the table."""
    return "" if value is None else f"{value:.4f}"


def correlation(pairs: list[Pair]) -> str:
    """Pearson's r and Spearman's rho of dev and leaderboard, in words."""
    from scipy.stats import pearsonr, spearmanr

    dev = [mean for mean, _ in pairs]
    board = [score for _, score in pairs]
    if len(set(dev)) < 3 or len(set(board)) < 2:
        return (
            f"{len(pairs)} scores: a correlation needs three submissions with different dev scores"
        )
    r, rho = pearsonr(dev, board).statistic, spearmanr(dev, board).statistic
    return f"{len(pairs)} scores: Pearson {r:+.3f}, Spearman {rho:+.3f}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options beside CONFIG and key=value."""
    parser.add_argument(
        "--score", metavar="ID=NUMBER", help="a leaderboard's score of a submission"
    )
    parser.add_argument("--board", default="public", help="which leaderboard")


def main() -> None:
    """The command line."""
    config, options = from_arguments(
        "submissions, their dev scores and the leaderboard's", arguments
    )
    if options.score is not None:
        enter_score(config, options.score, options.board)
    rows, pairs = table(read(path_of(config)))
    print(text_table(rows, left=4))
    for board, of_board in pairs.items():
        print(f"dev against {board}: {correlation(of_board)}")


if __name__ == "__main__":
    exit_with_message(main)
