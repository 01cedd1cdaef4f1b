"""The figures of style, counted by hand."""

import ast

from benchmarks.style import row, style_of, style_of_folder

TEXT = '''"""A file."""

# a comment
def told():
    """It says what it does."""
    return [x for x in y]


def _private(): return 1
def untold(): return {a: 1 for a in b}  # a comment behind code is none of its own
'''


def test_counts_by_hand():
    style = style_of(TEXT + "long = '" + 100 * "x" + "'\n")
    assert (style.lines, style.code, style.comments, style.wide) == (11, 7, 1, 1)
    assert (style.comprehensions, style.functions, style.documented) == (2, 2, 1)


def test_nodes_are_those_of_the_syntax_tree():
    # Module, Assign, Name and its Store, BinOp, two Constants and an Add
    assert style_of("a = 1 + 2\n").nodes == 8 == len(list(ast.walk(ast.parse("a = 1 + 2"))))


def test_a_folder_adds_up(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.py").write_text(TEXT)
    (tmp_path / "inner" / "two.py").write_text("a = 1 + 2\n")
    (tmp_path / "three.txt").write_text("no code")
    assert style_of_folder(tmp_path) == style_of(TEXT).plus(style_of("a = 1 + 2\n"))
    columns = [column.strip() for column in row("here", style_of("a = 1 + 2\n")).split("|")]
    assert columns[1:4] == ["here", "1", "8.0"]
