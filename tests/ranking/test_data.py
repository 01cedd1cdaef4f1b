import pytest
from tiny import data_of, step_of

from core.distributed import generator
from core.errors import InputError
from core.files import digest
from core.groups import open_mapped, write_groups, write_mapped
from core.records import TrainingPair
from ranking.data import TrainingData


def pairs(count=24):
    return [
        TrainingPair("en", f"q{i}", f"d{i}", float(i % 3 == 0), "judged", 0, "", "")
        for i in range(count)
    ]


def many(count, seed):
    """Pairs of three languages with ids in common, labels of five kinds, a query's rows apart."""
    random = generator("pairs", seed)
    return [
        TrainingPair(
            language=("en", "sw", "de")[language],
            qid=f"q{query}",
            docid=f"d{passage}",
            label=label / 4,
            origin="judged",
            round=seed,
            teacher="",
            reason="",
            passage_language=("", "th")[other],
        )
        for language, query, passage, label, other in random.integers(
            0, [3, 40, 200, 5, 2], (count, 5)
        ).tolist()
    ]


@pytest.mark.parametrize(
    "size, per_step, steps, expected",
    [(1, 7, 49, "c5911b82a84280e9"), (3, 5, 48, "7cd9932c074e2954")],
)
def test_the_order_is_that_of_lists_of_pairs(tmp_path, size, per_step, steps, expected):
    """Digests of 300 steps, as the code gave them that held every pair as a Python object."""
    draws = []
    for seed, count in enumerate((600, 500)):
        draws.append(tmp_path / f"draw-{seed}.parquet")
        write_groups(draws[-1], many(count, seed))
    write_mapped(draws, tmp_path / "groups.arrow")
    mapped = open_mapped(tmp_path / "groups.arrow")
    data = TrainingData(mapped, 3, per_step, size, languages=["en", "de"])
    assert data.order.steps_per_epoch == steps
    order = [[list(map(list, sample)) for sample in step_of(data, step)] for step in range(300)]
    assert digest(order) == expected


@pytest.mark.parametrize("size", [1, 3])
def test_processes_share_a_step(size):
    data = data_of([many(600, 0)], 0, 12, size)
    for step in (0, 7):
        whole = step_of(data, step)
        shares = [step_of(data, step, rank, 3) for rank in range(3)]
        assert [len(part) for part in shares] == [4, 4, 4]
        assert shares[1] == whole[1::3]
        assert sorted(sum(shares, [])) == sorted(whole)


def test_order_is_a_function_of_seed_and_epoch():
    data = data_of([pairs(10)], 0, 4)
    epoch = [p.qid for step in (0, 1) for (p,) in step_of(data, step)]
    assert len(set(epoch)) == 8, (
        "no pair twice in an epoch; the two that do not fill a step wait for the next"
    )
    assert step_of(data, 3) != step_of(data, 1) and step_of(
        data_of([pairs(10)], 0, 4), 3
    ) == step_of(data, 3)
    assert step_of(data_of([pairs(10)], 1, 4), 0) != step_of(data, 0)
    two = data_of([pairs(8), [p._replace(origin="second") for p in pairs(8)]], 0, 8)
    assert [step_of(two, e)[0][0].origin for e in range(3)] == ["judged", "second", "judged"]


def test_data_that_cannot_train():
    with pytest.raises(
        InputError,
        match="3 training pairs do not fill one step of 4; lower batch_size or accumulation",
    ):
        data_of([pairs(3)], 0, 4)
    with pytest.raises(InputError, match="all 8 training pairs have the label 0.0"):
        data_of([[p._replace(label=0.0) for p in pairs(8)]], 0, 4)


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
    data = data_of([rows], 0, 3, size=3)
    assert (
        "3 of up to 3 passages; 1 of 3 queries have no passage above another and are in none"
        in capsys.readouterr().out
    )
    by_first = {(g[0].language, g[0].docid): g for g in step_of(data, 0)}
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
        for g in step_of(data, step)
        if g[0].docid == "a" and g[0].language == "en"
    }
    assert len(drawn) > 2, "other negatives each epoch"
    assert step_of(data, 5) == step_of(data_of([rows], 0, 3, size=3), 5)


def test_groups_that_cannot_be_made():
    with pytest.raises(InputError, match="1 training groups do not fill one step of 2"):
        data_of([judged("en", "1", a=1.0, b=0.0)], 0, 2, size=4)
