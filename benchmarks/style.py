"""How dense the code is: figures of each room's files, to be read beside those of other projects.

    python benchmarks/style.py [FOLDER ...]       # the rooms of this repository without it

Syntax nodes are counted per line of the file, blank ones too; comprehensions and wide lines per
line of code, which is neither blank nor a comment. The figures fail no check: a reader is the
measure, and these show only where to look.
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

ROOMS = ("core", "training", "retrieval", "data_aug", "ranking", "ensemble")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
WIDE = 100


class Style(NamedTuple):
    """Counts over some files; they add up."""

    lines: int = 0
    code: int = 0
    comments: int = 0
    wide: int = 0
    nodes: int = 0
    comprehensions: int = 0
    functions: int = 0
    documented: int = 0

    def plus(self, other: "Style") -> "Style":
        return Style(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def style_of(text: str) -> Style:
    """The counts of one file. ``functions`` are the public ones."""
    lines = text.splitlines()
    comments = sum(line.lstrip().startswith("#") for line in lines)
    blank = sum(not line.strip() for line in lines)
    nodes = list(ast.walk(ast.parse(text)))
    functions = [n for n in nodes if isinstance(n, FUNCTIONS) and not n.name.startswith("_")]
    return Style(
        lines=len(lines),
        code=len(lines) - blank - comments,
        comments=comments,
        wide=sum(len(line) > WIDE for line in lines),
        nodes=len(nodes),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        functions=len(functions),
        documented=sum(ast.get_docstring(function) is not None for function in functions),
    )


def style_of_folder(folder: Path) -> Style:
    total = Style()
    for path in sorted(folder.rglob("*.py")):
        total = total.plus(style_of(path.read_text("utf-8")))
    return total


def row(name: str, s: Style) -> str:
    per_line = s.nodes / max(s.lines, 1)
    per_hundred = 100 * s.comprehensions / max(s.code, 1)
    wide = 100 * s.wide / max(s.code, 1)
    documented = 100 * s.documented / max(s.functions, 1)
    comments = 100 * s.comments / max(s.lines, 1)
    return (
        f"| {name} | {s.lines} | {per_line:.1f} | {per_hundred:.1f} | {wide:.1f} % "
        f"| {comments:.1f} % | {documented:.0f} % of {s.functions} |"
    )


def main() -> None:
    root = Path(__file__).parent.parent
    folders = [Path(name) for name in sys.argv[1:]] or [root / room for room in ROOMS]
    print(
        "| room | lines | syntax nodes a line | comprehensions per 100 "
        f"| lines over {WIDE} | comments | public functions with docstring |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    total = Style()
    for folder in folders:
        if folder.is_dir():
            found = style_of_folder(folder)
            total = total.plus(found)
            print(row(folder.name, found))
    print(row("all", total))


if __name__ == "__main__":
    main()
