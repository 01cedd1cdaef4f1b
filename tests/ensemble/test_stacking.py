import numpy as np
import pytest

from core.errors import InputError
from core.settings import Stacking
from ensemble import stacking
from ensemble.stacking import Stack, agreement_features, features, member_features
from ensemble.weights import Judged, aligned_members

NAN = np.nan


def texts(key, docids):
    return "what is tea", [f"passage {d}" if d != "d1" else "Tea is a drink." for d in docids]


@pytest.fixture(scope="module")
def judged():
    """80 queries of two languages; one has no candidate, and one no right one.

    The right passage is that which the three members put high together.
    """
    random = np.random.default_rng(7)
    docs = [f"d{i}" for i in range(8)]
    runs, qrels = {n: {"en": {}, "th": {}} for n in "abc"}, {}
    for q in range(80):
        la, right = ("en", "th")[q % 2], docs[random.integers(8)]
        for n in runs:
            runs[n][la][str(q)] = {d: float(random.normal() + 1.2 * (d == right)) for d in docs}
        qrels[la, str(q)] = {right: 1, docs[(docs.index(right) + 1) % 8]: 0}
    for n in runs:
        del runs[n]["en"]["0"]
    qrels["th", "1"] = {"elsewhere": 1}
    return Judged(aligned_members(runs, list(qrels)), qrels)


@pytest.fixture(scope="module")
def stack(judged):
    return Stack(judged, texts, ["en", "th"], Stacking(trees=40, min_leaf=5), 0)


FOLDS = np.arange(80) // 2 % 4
ALL = np.ones(80, bool)


def test_member_features_by_hand():
    found = member_features("m", np.array([[5.0, NAN, 3.0, 1.0]]))
    assert {
        name.removeprefix("m "): values[0].tolist()[:1] + values[0].tolist()[2:]
        for name, (values, _) in found.items()
    } == {
        "score": [5.0, 3.0, 1.0],
        "rank": [1, 2, 3],
        "margin": [0.0, 2.0, 4.0],
        "share": [1.0, 0.5, 0.0],
    }
    assert all(np.isnan(values[0, 1]) for values, _ in found.values()) and [
        d for _, d in found.values()
    ] == [1, -1, -1, 1]


def test_agreement_features_by_hand():
    found = agreement_features(np.array([[[3.0, 2.0, 1.0]], [[1.0, 2.0, NAN]]]))
    assert found["mean share"][0].tolist() == [[0.5, 0.75, 0.0]] and found[
        "members with it in their ten"
    ][0].tolist() == [[2, 2, 1]]
    assert found["agreement on the query"][0].tolist() == [[0.0, 0.0, 0.0]], (
        "two passages in common say nothing"
    )


def test_text_and_language_features(judged):
    found = features(judged.members, texts, ["en"])
    place = judged.members.docids[1].index("d1")
    assert found["query length"][0][1, place] == 11 and found["passage length"][0][1, place] == 15
    assert found["overlap"][0][1, place] == pytest.approx(1 / 7), (
        "of wha hat ati tis ist ste tea, tea is in teaisadrink"
    )
    assert np.isnan(found["language"][0][1]).all() and (found["language"][0][2] == 0).all(), (
        "th was not trained on"
    )


def test_it_learns_what_no_member_alone_knows(judged, stack):
    learn = FOLDS != 0
    values = stack.predict(stack.fit(learn, FOLDS), ~learn)
    held = judged.part(~learn)
    alone = [held.macro(held.per_query(scores)) for scores in held.members.scores]
    assert held.macro(held.per_query(values)) > max(alone) + 0.05


def test_groups_are_whole_and_none_is_empty(judged, stack, monkeypatch):
    import lightgbm

    seen = {}
    real = lightgbm.Dataset
    monkeypatch.setattr(
        lightgbm,
        "Dataset",
        lambda values, labels, **more: (
            seen.update(more, labels=labels, values=values) or real(values, labels, **more)
        ),
    )
    stack.train(ALL, 1)
    assert (
        len(seen["group"]) == 79
        and (seen["group"] == 8).all()
        and seen["labels"].sum() == 78
        and len(seen["values"]) == 79 * 8
    )


def test_the_same_bytes_and_back_from_text(stack, judged, tmp_path):
    texts_of = []
    for name in "ab":
        (tmp_path / name).mkdir()
        booster = stack.fit(ALL, FOLDS)
        stacking.save(tmp_path / name, booster, stack, {"split": "dev"})
        texts_of.append((tmp_path / name / "model.txt").read_bytes())
    assert texts_of[0] == texts_of[1]
    values = stacking.apply(tmp_path / "a", judged.members, texts)
    assert (
        np.allclose(values, stack.predict(booster, ALL), equal_nan=True)
        and np.isnan(values[0]).all()
    )
    with pytest.raises(
        InputError, match="the model was trained with the members a, b, c, found a, b"
    ):
        stacking.apply(
            tmp_path / "a",
            aligned_members({"a": {"en": {"1": {"x": 1.0}}}, "b": {"en": {}}}),
            texts,
        )


def test_importance_is_a_share_by_language(stack, judged, tmp_path):
    import json

    stacking.save(tmp_path, stack.train(ALL, 20), stack, {})
    shares = json.loads((tmp_path / "stacking.json").read_text())["importance"]
    assert set(shares) == {"en", "th"} and sum(shares["en"].values()) == pytest.approx(1.0)
    assert shares["en"]["mean share"] > shares["en"]["query length"]


def test_a_higher_score_never_lowers(stack):
    booster = stack.train(ALL, 40)
    row = np.repeat(stack.values[2, :1], 30, 0)
    row[:, stack.names.index("a score")] = np.linspace(-5, 5, 30)
    assert (np.diff(booster.predict(row)) >= 0).all()


def test_graded_labels_have_a_gain_each():
    runs = {"a": {"en": {str(q): {"x": 2.0, "y": 1.0, "z": 0.0} for q in range(30)}}}
    qrels = {("en", str(q)): {"x": 3, "y": 1} for q in range(30)}
    found = Stack(
        Judged(aligned_members(runs, list(qrels)), qrels), texts, ["en"], Stacking(min_leaf=2), 0
    ).train(np.ones(30, bool), 5)
    assert found.params["label_gain"] == [0, 1, 2, 3]


def test_no_relevant_candidate(judged):
    with pytest.raises(
        InputError,
        match="no relevant passage among the reranked candidates .* raise ranking.rerank.depth",
    ):
        Stack(
            Judged(judged.members, {q: {"nowhere": 1} for q in judged.qrels}),
            texts,
            ["en"],
            Stacking(),
            0,
        )
