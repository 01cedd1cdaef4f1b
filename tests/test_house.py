"""The arrows between the rooms, and that an import does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORDER = ["core", "training", "retrieval", "data_aug", "ranking", "ensemble"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_imports_go_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ORDER
        for path in (ROOT / room).rglob("*.py")
        for name in imported(path)
        if name in ORDER and ORDER.index(name) > ORDER.index(room)
    ]
    assert wrong == []


def test_importing_every_module_is_light():
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for room in ORDER
        for p in (ROOT / room).rglob("*.py")
        if p.name
        not in ("__init__.py", "model.py", "train.py", "losses.py", "adversary.py", "guards.py")
    ]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint([m for m in ('torch', 'transformers', 'deepspeed', 'jnius', 'faiss') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout.strip()
        == "[]"
    )
