import numpy as np
import pytest

from core.settings import Ensemble
from ensemble import estimate
from ensemble.estimate import estimates, methods, nested, rows, single_method
from ensemble.weights import Judged, aligned_members


@pytest.fixture(scope="module")
def noise():
    """Six members of pure noise on 60 queries of two languages: nothing is to be gained."""
    random = np.random.default_rng(4)
    docs = [f"d{i}" for i in range(10)]
    runs = {
        n: {
            la: {
                str(q): dict(zip(docs, random.normal(size=10).tolist(), strict=True))
                for q in range(30)
            }
            for la in ("en", "th")
        }
        for n in "abcdef"
    }
    qrels = {(la, str(q)): {docs[random.integers(10)]: 1} for la in ("en", "th") for q in range(30)}
    return Judged(aligned_members(runs, list(qrels)), qrels)


FOLDS = np.arange(60) % 5


def test_tuned_on_noise_the_nested_estimate_shows_that_nothing_was_gained(noise):
    """Measured on the queries it was tuned on, coordinate ascent looks better than chance.

    Out of fold it does not.
    """
    found = {
        v["method"]: v
        for v in estimates(
            noise,
            dict(zip(noise.members.queries, FOLDS.tolist(), strict=True)),
            Ensemble(),
            None,
            0,
        )
    }
    chance = np.mean([1 / np.log2(r + 2) for r in range(10)])
    assert (
        found["coordinate"]["same"] > chance + 0.05
        and abs(found["coordinate"]["nested"] - chance) < 0.06
    )
    assert (
        found["best single"]["gain"] == 0.0
        and found["best single"]["wins"] == 0
        and found["best single"]["p"] == 1.0
    )
    assert set(found) == {
        "best single",
        "uniform",
        "score",
        "paper",
        "greedy",
        "coordinate",
        "coordinate, by language",
    }
    for v in found.values():
        assert (
            v["gain"] == pytest.approx(v["nested"] - found["best single"]["nested"])
            and v["wins"] + v["losses"] <= v["queries"] == 60
        )


def test_a_fold_is_never_learnt_from(noise):
    seen = []

    def method(learn, chosen):
        seen.append((learn.copy(), chosen.copy()))
        return noise.members.scores[0][chosen]

    assert nested(noise, method, FOLDS) == pytest.approx(noise.per_query(noise.members.scores[0]))
    assert len(seen) == 5 and all(not (a & b).any() and (a | b).all() for a, b in seen)
    assert (sum(b.astype(int) for _, b in seen) == 1).all()


def test_the_best_single_member_is_chosen_without_the_fold(noise):
    """Member a is right in fold 0 alone, b elsewhere: choosing on the others takes b for fold 0."""
    scores = noise.members.scores[:2].copy()
    part = Judged(
        noise.members.__class__(("a", "b"), noise.members.queries, noise.members.docids, scores),
        noise.qrels,
    )
    for i, q in enumerate(part.members.queries):
        place = part.members.docids[i].index(next(iter(noise.qrels[q])))
        scores[0 if FOLDS[i] == 0 else 1, i, place] = 99.0
        scores[1 if FOLDS[i] == 0 else 0, i, place] = -99.0
    found = nested(part, single_method(part), FOLDS)
    assert (found[FOLDS != 0] == 1.0).all() and (found[FOLDS == 0] < 0.31).all()


def test_one_language_has_no_row_by_language(noise):
    part = noise.part(noise.languages == "en")
    assert "coordinate, by language" not in methods(
        part, Ensemble(), None
    ) and "stacking" in methods(part, Ensemble(), lambda learn, chosen: None)


def test_the_p_is_of_the_mean_over_languages():
    """th weighs as much as en: its one query's .2 beside en's four of .1, a mean of +.05.

    The signs of en's queries move the mean by .05 at most, so every draw is as far from 0 as that;
    pooled, the sum -.2 would have been reached by 12 of 16 draws alone.
    """
    found = estimate.tested(np.array([-0.1, -0.1, -0.1, -0.1, 0.2]), ["en"] * 4 + ["th"], 0)
    assert found == {"wins": 1, "losses": 4, "queries": 5, "p": 1.0}


def test_rows():
    table = rows(
        [
            {
                "method": "paper",
                "same": 0.5,
                "nested": 0.4,
                "gain": -0.1,
                "wins": 1,
                "losses": 2,
                "queries": 9,
                "p": 0.25,
            }
        ]
    )
    assert (
        rows(
            [
                {
                    "method": "paper",
                    "same": 0.5,
                    "nested": 0.4,
                    "gain": 0.0,
                    "wins": 0,
                    "losses": 0,
                    "queries": 9,
                    "p": 1.0,
                }
            ],
            {"testA known": {"paper": 0.75}},
        )[0][-1]
        == "testA known"
    )
    assert table[1] == ["paper", "0.5000", "0.4000", "-0.1000", "1", "2", "9", "0.2500"]
