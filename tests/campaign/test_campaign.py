"""Every sixteenth case of the campaign; all of them: ``./tests/run.sh --campaign``."""

import pytest

from tests.campaign.cases import all_cases
from tests.campaign.trying import CLEAR, build_world, outcome

CASES = all_cases()
SOME = CASES[::16]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build_world(folder)
    return folder


@pytest.mark.parametrize("case", SOME, ids=range(0, len(CASES), 16))
def test_a_bad_input_ends_in_a_clear_line(case, world):
    kind, text = outcome(case, world)
    assert kind == CLEAR, f"{case.name}: {' '.join(case.command)[:200]}\n{kind}: {text}"


def test_names_are_each_once_and_there_are_hundreds():
    names = [case.name for case in CASES]
    assert len(names) >= 600
    assert len(set(names)) == len(names)
