"""The arrows between the rooms, and that an import does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["core", "training", "retrieval", "data_aug", "ranking", "ensemble"]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "sentence_transformers",
    "accelerate",
    "sklearn",
    "lightgbm",
    "faiss",
    "openvino",
    "jnius",
    "pyserini",
    "openai",
    "fasttext",
    "ray",
)
MODEL_CODE = {
    "ranking/adversary.py",
    "ranking/learner.py",
    "ranking/losses.py",
    "ranking/model.py",
    "ranking/packed.py",
    "retrieval/encoder.py",
    "retrieval/encoders/contrastive.py",
    "retrieval/encoders/in_batch/false_negatives.py",
    "retrieval/encoders/in_batch/interpolate.py",
    "retrieval/encoders/in_batch/momentum.py",
    "retrieval/encoders/in_batch/queue.py",
    "retrieval/encoders/learner.py",
    "training/average.py",
    "training/gather.py",
    "training/loop.py",
}
"""What is made of torch, and imports it where it stands; others import it where they use it."""


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere in a file, in functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def at_the_top(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that an import runs, less those for the type checker alone."""
    for statement in tree.body:
        if not (isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)):
            yield statement


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room):
    later = ORDER[ORDER.index(room) + 1 :]
    wrong = []
    for path in files_of(room):
        for module in imported(ast.parse(path.read_text("utf-8"))):
            if module.split(".")[0] in later:
                wrong.append(f"{place(path)} imports {module}")
    assert wrong == []


def test_importing_every_module_is_light():
    modules = []
    for room in ORDER:
        for path in files_of(room):
            if place(path) not in MODEL_CODE and path.name != "__init__.py":
                modules.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    for heavy in {HEAVY!r}:\n"
        "        if heavy in sys.modules:\n"
        "            sys.exit(f'{module} imports {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_model_code_stands_on_torch():
    """So that the list of it names what is there, and no more."""
    stands_on_torch = set()
    for room in ORDER:
        for path in files_of(room):
            for statement in at_the_top(ast.parse(path.read_text("utf-8"))):
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    if "torch" in {module.split(".")[0] for module in imported(statement)}:
                        stands_on_torch.add(place(path))
    assert stands_on_torch == MODEL_CODE


def rooms_of_names(tree: ast.AST) -> dict[str, str]:
    """The local names of other modules of the house, and of their functions: name -> room."""
    rooms: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            room = node.module.split(".")[0]
            if room in ORDER:
                for alias in node.names:
                    rooms[alias.asname or alias.name] = room
    return rooms


def room_of_plan(call: ast.expr, rooms: dict[str, str]) -> str | None:
    """The room whose plan is called, as ``search.plan(task)`` or ``plan(task)``."""
    if not isinstance(call, ast.Call):
        return None
    if isinstance(call.func, ast.Attribute) and call.func.attr == "plan":
        return rooms.get(ast.unparse(call.func.value))
    if isinstance(call.func, ast.Name) and call.func.id == "plan":
        return rooms.get("plan")
    return None


def looks_into_plans(tree: ast.AST, room: str) -> list[str]:
    """Where another room's plan is asked for a step by a name: ``search.plan(task)["hybrid"]``."""
    rooms = rooms_of_names(tree)
    plans: dict[str, str] = {}  # variables that hold a plan of another room
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            other = room_of_plan(node.value, rooms)
            for target in node.targets:
                if other and other != room and isinstance(target, ast.Name):
                    plans[target.id] = other
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            other = room_of_plan(node.value, rooms)
            if isinstance(node.value, ast.Name):
                other = plans.get(node.value.id)
            if other and other != room:
                wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
    return wrong


def test_looks_into_plans_are_seen():
    code = (
        "from retrieval import search\n"
        "from data_aug.build import plan\n"
        "def f(task, la):\n"
        "    steps = search.plan(task)\n"
        "    return steps[f'hybrid/{la}-dev'], plan(task)['groups/x'], search.plan(task).values()\n"
    )
    seen = looks_into_plans(ast.parse(code), "ranking")
    assert seen == ["line 5: steps[f'hybrid/{la}-dev']", "line 5: plan(task)['groups/x']"]
    assert looks_into_plans(ast.parse(code), "data_aug") == seen[:1], "its own plan it may read"


@pytest.mark.parametrize("room", ORDER)
def test_rooms_meet_in_artefacts_not_in_each_others_plans(room):
    wrong = []
    for path in files_of(room):
        for look in looks_into_plans(ast.parse(path.read_text("utf-8")), room):
            wrong.append(f"{place(path)}, {look}")
    assert wrong == []
