import pytest

from core.steps import Plan


@pytest.fixture
def two_steps():
    """A function that gives (a plan of two steps, one made of the other; what was built)."""

    def make(root, version=1, k=1, built=None):
        built = [] if built is None else built

        def build(name):
            def write(folder):
                built.append(name)
                (folder / "out.txt").write_text(name)

            return write

        plan = Plan("retrieval", root, {})
        first = plan.add("first", version, {"k": k}, [], build("first"))
        plan.add("second", 1, {}, [first], build("second"))
        return plan, built

    return make
