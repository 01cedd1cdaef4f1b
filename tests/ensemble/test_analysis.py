import pytest

from ensemble.analysis import FATES, fate, fates, recall_curve, reranked_to, scores_of

HYBRID = {"1": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}, "2": {"a": 2.0, "e": 1.0}}
DEEP = {"1": {"a": 0.1, "b": 0.3, "c": 0.2}, "2": {"a": 0.5, "e": 0.9}}


def test_reranking_less_deep():
    order = {q: list(scores) for q, scores in HYBRID.items()}

    def ranked(depth):
        return {
            q: sorted(scores, key=lambda d: -scores[d])
            for q, scores in reranked_to(order, DEEP, depth).items()
        }

    assert (
        ranked(0) == order
        and ranked(2) == {"1": ["b", "a", "c", "d"], "2": ["e", "a"]}
        and ranked(3)["1"] == ["b", "c", "a", "d"]
    )


def test_fate_of_a_passage():
    assert [
        fate(None, None, 20),
        fate(21, None, 20),
        fate(20, 11, 20),
        fate(5, 10, 20),
        fate(5, 1, 20),
    ] == list(FATES)
    assert fate(5, None, 20) == "ranked below 10"


def test_fates_are_shares_of_the_relevant():
    qrels = {"1": {"b": 1, "d": 1, "a": 0}, "2": {"nowhere": 1, "e": 2}, "3": {"x": 1}}
    found = fates(HYBRID, DEEP, qrels, 3)
    assert found == {
        "never retrieved": 0.4,
        "below the candidates": 0.2,
        "ranked below 10": 0.0,
        "in the ten": 0.0,
        "first": 0.4,
    }


def test_scores_and_recall():
    order = {q: list(scores) for q, scores in HYBRID.items()}
    assert scores_of(DEEP, order, {"1": {"b": 1, "d": 1}}, 3) == ([0.3], [0.1, 0.2, 0.5, 0.9])
    assert recall_curve(HYBRID, {"1": {"b": 1, "d": 1}, "2": {"x": 1}}, [1, 2, 5]) == {
        1: 0.0,
        2: pytest.approx(0.25),
        5: pytest.approx(0.5),
    }
