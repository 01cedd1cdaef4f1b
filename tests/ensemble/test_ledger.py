import pytest

from core.errors import InputError
from ensemble import ledger


def submission(config, tmp_path, text, dev, nested=None):
    (tmp_path / text).write_text(text)
    return ledger.note(config, tmp_path / text, dev, nested)


def test_submissions_scores_and_their_correlation(config, tmp_path):
    c = config()
    first = submission(c, tmp_path, "a", {"en": 0.5, "th": 0.7}, 0.58)
    assert submission(c, tmp_path, "a", {"en": 0.5, "th": 0.7}) == first, "entered once"
    ids = [
        first,
        submission(c, tmp_path, "b", {"en": 0.6, "th": 0.8}),
        submission(c, tmp_path, "c", {"en": 0.7, "th": 0.9}),
    ]
    for number, score in zip(ids, (0.4, 0.9, 0.6), strict=True):
        ledger.enter_score(c, f"{number}={score}", "public")
    ledger.enter_score(c, f"{ids[1]}=0.5", "public")
    entries = ledger.read(ledger.path_of(c))
    assert len(entries) == 7, "nothing is overwritten"
    rows, pairs = ledger.table(entries)
    assert rows[0] == ["id", "time", "name", "system", "dev", "nested", "en", "th", "public"]
    assert [row[0] for row in rows[1:]] == ids and rows[1][2:] == [
        "test",
        "ensemble",
        "0.6000",
        "0.5800",
        "0.5000",
        "0.7000",
        "0.4000",
    ]
    assert pairs["public"] == [
        (pytest.approx(0.6), 0.4),
        (pytest.approx(0.7), 0.5),
        (pytest.approx(0.8), 0.6),
    ], "the score typed last counts"
    assert ledger.correlation(pairs["public"]) == "3 scores: Pearson +1.000, Spearman +1.000"
    assert "needs three submissions with different dev scores" in ledger.correlation(
        pairs["public"][:2]
    )


def test_bad_input(config, tmp_path):
    c = config()
    assert ledger.read(ledger.path_of(c)) == []
    with pytest.raises(InputError, match="no submission 'xyz' in .*; known: none"):
        ledger.enter_score(c, "xyz=0.5", "public")
    number = submission(c, tmp_path, "a", {})
    with pytest.raises(InputError, match="found score 'high', expected a finite number"):
        ledger.enter_score(c, f"{number}=high", "public")
    with ledger.path_of(c).open("a") as file:
        file.write('{"half')
    with pytest.raises(
        InputError,
        match="line 2: found text that is not JSON .*, expected a JSON object; a stopped process",
    ):
        ledger.read(ledger.path_of(c))
