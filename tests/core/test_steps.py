import pytest

from core.artefacts import PassageStore
from core.steps import Files, Plan, Step, changes, flat, needed


def test_what_a_step_needs_comes_before_it_once(tmp_path, two_steps):
    plan, _ = two_steps(tmp_path)
    other = Plan("ranking", tmp_path, {})
    third = other.add(
        "third", 1, {}, [plan["second"], plan["first"], Files("a file", "x")], lambda folder: None
    )
    other.add("fourth", 1, {}, [third], lambda folder: None)
    assert [step.name for step in needed([third, plan["second"]])] == ["first", "second", "third"]


def test_a_fingerprint_is_of_name_version_settings_and_inputs(tmp_path):
    def fingerprint(name="step", version=1, settings=None, inputs=()):
        plan = Plan("retrieval", tmp_path, {})
        settings = {"k": 1} if settings is None else settings
        return plan.add(name, version, settings, inputs, lambda folder: None).fingerprint

    same = fingerprint(inputs=[Files("a", "x")])
    assert fingerprint(inputs=[Files("a", "x")]) == same
    others = [
        fingerprint(),
        fingerprint(name="other", inputs=[Files("a", "x")]),
        fingerprint(version=2, inputs=[Files("a", "x")]),
        fingerprint(settings={"k": 2}, inputs=[Files("a", "x")]),
        fingerprint(inputs=[Files("a", "y")]),
        fingerprint(inputs=[Files("a", "x"), Files("a", "y")]),  # as of two collections
    ]
    assert len({same, *others}) == 7


def test_where_a_step_lies(tmp_path):
    step = Plan("retrieval", tmp_path, {}).add("dense/en-dev", 1, {}, [], lambda folder: None)
    assert step.path == tmp_path / "shared" / "retrieval" / f"dense-en-dev-{step.fingerprint}"
    assert step.part == step.path.with_name(f"dense-en-dev-{step.fingerprint}.part")


def test_a_step_named_by_an_artefact_is_published(tmp_path):
    published: dict[PassageStore, Step] = {}
    plan = Plan("retrieval", tmp_path, published)
    step = plan.add(PassageStore("en"), 1, {}, [], lambda folder: None)
    plan.add("another", 1, {}, [], lambda folder: None)
    assert published == {PassageStore("en"): step} and plan["passages/en"] is step


def test_why_a_recipe_is_another(tmp_path, two_steps):
    recipe = two_steps(tmp_path)[0]["first"].recipe
    assert changes(None, {}) == "not made yet"
    assert changes(recipe, recipe) == "stopped before its end, or removed"

    before = {"version": 1, "settings": {"a": {"b": 1}, "c": 2}, "inputs": {"x": "1", "y": "1"}}
    after = {"version": 2, "settings": {"a": {"b": 3}}, "inputs": {"x": "2", "z": "1"}}
    assert changes(before, after) == "version 1 -> 2; a.b: 1 -> 3; c: 2 -> None; …"
    after = {"version": 1, "settings": {"a": {"b": 1}, "c": 2}, "inputs": {"x": "2", "z": "1"}}
    assert changes(before, after) == "x changed; y changed; z changed"


@pytest.mark.parametrize(
    "value, leaves",
    [(3, {"": 3}), ({"a": {"b": 1, "c": []}}, {"a.b": 1, "a.c": []}), ({}, {})],
)
def test_nested_settings_as_dotted_keys(value, leaves):
    assert flat(value) == leaves
