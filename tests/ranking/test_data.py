import pytest

from core.errors import InputError
from core.records import TrainingPair
from ranking.data import TrainingData, micro_batches


def pairs(count=24):
    return [
        TrainingPair("en", f"q{i}", f"d{i}", float(i % 3 == 0), "judged", 0, "", "")
        for i in range(count)
    ]


def test_order_is_a_function_of_seed_and_epoch():
    def texts(p):
        return p.qid, p.docid

    data = TrainingData([pairs(10)], texts, 0, 4)
    epoch = [p.qid for step in (0, 1) for (p,) in data.step(step)]
    assert len(set(epoch)) == 8, (
        "no pair twice in an epoch; the two that do not fill a step wait for the next"
    )
    assert data.step(3) != data.step(1) and TrainingData([pairs(10)], texts, 0, 4).step(
        3
    ) == data.step(3)
    assert TrainingData([pairs(10)], texts, 1, 4).step(0) != data.step(0)
    two = TrainingData([pairs(8), [p._replace(origin="second") for p in pairs(8)]], texts, 0, 8)
    assert [two.step(e)[0][0].origin for e in range(3)] == ["judged", "second", "judged"]


def test_micro_batches_cover_the_step():
    groups = [[({"input_ids": [0] * n}, n)] for n in (5, 1, 4, 2, 8, 3, 7, 6)]
    shares = [micro_batches(groups, 2, rank, 2) for rank in (0, 1)]
    assert sorted(group[0][1] for share in shares for batch in share for group in batch) == list(
        range(1, 9)
    )
    assert [[group[0][1] for group in batch] for batch in shares[0]] == [[1, 2], [5, 6]]


def test_data_that_cannot_train():
    with pytest.raises(
        InputError,
        match="3 training pairs do not fill one step of 4; lower batch_size or accumulation",
    ):
        TrainingData([pairs(3)], None, 0, 4)
    with pytest.raises(InputError, match="all 8 training pairs have the label 0.0"):
        TrainingData([[p._replace(label=0.0) for p in pairs(8)]], None, 0, 4)


def judged(language, qid, **labels):
    return [
        TrainingPair(language, qid, docid, label, "judged", 0, "", "")
        for docid, label in labels.items()
    ]


def test_groups_are_a_relevant_passage_and_others_below_it(capsys):
    rows = [
        *judged("en", "1", a=1.0, b=0.0, c=0.0, d=0.5, e=0.0),
        *judged("sw", "1", a=1.0, b=0.0),
        *judged("en", "2", a=0.0, b=0.0),
    ]
    data = TrainingData([rows], None, 0, 3, size=3)
    assert (
        "3 of up to 3 passages; 1 of 3 queries have no passage above another and are in none"
        in capsys.readouterr().out
    )
    by_first = {(g[0].language, g[0].docid): g for g in data.step(0)}
    assert set(by_first) == {("en", "a"), ("en", "d"), ("sw", "a")}
    assert [p.docid for p in by_first["sw", "a"]] == ["a", "b"], "a short group is whole"
    assert len(by_first["en", "a"]) == 3 and {p.docid for p in by_first["en", "a"][1:]} <= set(
        "bcde"
    )
    assert len(by_first["en", "d"]) == 3 and {p.docid for p in by_first["en", "d"][1:]} <= set(
        "bce"
    ), "no passage of its own label or above"
    drawn = {
        tuple(p.docid for p in g)
        for step in range(12)
        for g in data.step(step)
        if g[0].docid == "a" and g[0].language == "en"
    }
    assert len(drawn) > 2, "other negatives each epoch"
    assert data.step(5) == TrainingData([rows], None, 0, 3, size=3).step(5)


def test_groups_that_cannot_be_made():
    with pytest.raises(InputError, match="1 training groups do not fill one step of 2"):
        TrainingData([judged("en", "1", a=1.0, b=0.0)], None, 0, 2, size=4)
