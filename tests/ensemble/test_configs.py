"""The configurations of the paper's table: who teaches whom, and how often a pair is seen."""

from pathlib import Path

import pytest

from core.config import load_config

ROOT = Path(__file__).parent.parent.parent
JUDGED = 343_177  # pairs of train, the sum of "# J" in the paper's Table 1
QUERIES = 40_203  # of train
TEST_QUERIES = 7_611  # of test-A, each with half of 50 candidates as pseudo-labels


@pytest.fixture(scope="module")
def table3():
    return load_config(ROOT / "configs" / "miracl_table3.yaml")


def body(config, name):
    ranker = config.ranking.trainings[name]
    return body(config, ranker.start) if ranker.start else ranker.backbone


def test_pseudo_labels_come_from_the_row_that_they_are_added_to(table3):
    """All came from InfoXLM with 200 negatives, which the paper had last."""
    taught = {}
    for name, ranker in table3.ranking.rankers.items():
        pseudo = table3.data_aug[ranker.recipe].pseudo_label
        if pseudo:
            taught[name] = pseudo.teacher
            teacher = table3.ranking.rankers[pseudo.teacher]
            assert body(table3, name) == body(table3, pseudo.teacher)
            assert table3.data_aug[teacher.recipe].pseudo_label is None
            assert (teacher.round, ranker.round) == (0, 1)
    assert taught == {
        "mdeberta-pft-pl": "mdeberta-pft",
        "mdeberta-tydi-pl": "mdeberta-pft",
        "mdeberta-tydi-pl-q2q2d": "mdeberta-pft",
        "mdeberta": "mdeberta-pft",
        "rembert-pl": "rembert-pft",
        "rembert-pl-ns10": "rembert-pft",
        "rembert": "rembert-pft",
    }


@pytest.mark.parametrize(
    "name, passes",
    [
        ("mdeberta-baseline", 2),
        ("mdeberta-pft-pl", 2),
        ("rembert-pl-ns10", 2),
        ("rembert", 1),
        ("infoxlm-ns5", 2),
        ("infoxlm-ns50", 1),
        ("infoxlm-ns100", 1),
        ("infoxlm", 1),
    ],
)
def test_passes_over_the_pairs(table3, name, passes):
    """Of NS-200, about 8 of a query's 200 candidates are judged and so taken already."""
    ranker = table3.ranking.rankers[name]
    recipe = table3.data_aug[ranker.recipe]
    pairs = JUDGED + min(recipe.negatives, 192) * QUERIES
    if recipe.pseudo_label:
        pairs += TEST_QUERIES * recipe.pseudo_label.depth * recipe.pseudo_label.share
    seen = ranker.steps * ranker.batch_size * ranker.accumulation
    assert seen / pairs == pytest.approx(passes, rel=0.02)
