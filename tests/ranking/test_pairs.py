import json

import pytest

from core.backbones import load_tokenizer
from core.errors import InputError
from ranking.pairs import PairTokenizer


@pytest.fixture
def tokenize(embedded_folder):
    return PairTokenizer(load_tokenizer(str(embedded_folder)), query_length=4, max_length=16)


def test_template_and_newline(tokenize):
    (row,) = tokenize(["capital of Kenya"], ["Nairobi\nIt is big."])
    plain = tokenize.tokenizer("capital of Kenya", "Nairobi\nIt is big.")
    assert row["input_ids"] == plain["input_ids"]
    tokens = tokenize.tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens[0] == "<s>" and tokens.count("</s>") == 3 and tokens[-1] == "</s>"


def test_only_the_passage_is_shortened_and_the_query_first(tokenize):
    query = "one two three four five six seven eight nine ten"
    (row,) = tokenize([query], ["word " * 100])
    tokens = tokenize.tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert len(tokens) == 16
    assert tokens[1:5] == ["▁one", "▁two", "▁three", "▁four"] and tokens[5:7] == ["</s>", "</s>"]
    assert tokens[7:15] == ["▁word"] * 8


def test_pad(tokenize):
    padded = tokenize.pad(tokenize(["a", "a"], ["b", "b c d e"]), "cpu")
    assert (
        padded["input_ids"].shape == padded["attention_mask"].shape
        and padded["attention_mask"][0].sum() < padded["attention_mask"][1].sum()
    )


def test_equals_the_tokenizers_own_pairs(tokenize):
    queries, passages = (
        ["capital", "", "ナイロビ", "a b c d e f g h"],
        ["Nairobi " * 30, "x", "", "t\nu"],
    )
    for row, query, passage in zip(tokenize(queries, passages), queries, passages, strict=True):
        shortened = tokenize.tokenizer.decode(
            tokenize.tokenizer(query, add_special_tokens=False)["input_ids"][:4]
        )
        assert [row["input_ids"]] == tokenize.tokenizer(
            [shortened], [passage], truncation="only_second", max_length=16
        )["input_ids"]


def test_token_types_where_the_model_has_them(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.WordLevel({"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[UNK]": 3, "a": 4, "b": 5}, "[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    rows = PairTokenizer(tokenizer, 8, 16)(["a a", "a"], ["b b b", ""])
    own = tokenizer(["a a", "a"], ["b b b", ""])
    assert [row["input_ids"] for row in rows] == own["input_ids"] and [
        row["token_type_ids"] for row in rows
    ] == own["token_type_ids"]
    ours, theirs = (
        PairTokenizer(tokenizer, 8, 16).pad(rows, "cpu"),
        tokenizer.pad(rows, return_tensors="pt"),
    )
    assert set(ours) == set(theirs) and all(ours[name].equal(theirs[name]) for name in ours)


def test_a_text_is_tokenised_once_for_models_that_share_a_tokenizer(embedded_folder, monkeypatch):
    first, second = (
        PairTokenizer(load_tokenizer(str(embedded_folder)), n, m) for n, m in ((4, 16), (8, 32))
    )
    rows = first(["only here once"] * 2, ["this passage", "that passage"])
    monkeypatch.setattr(type(second.tokenizer), "__call__", None)
    assert (
        second(["only here once"], ["that passage"])[0]["input_ids"][0] == rows[0]["input_ids"][0]
    )
    monkeypatch.undo()
    assert second(["only here once"], ["a new one"])


def test_what_is_saved_does_not_know_what_was_tokenised(embedded_folder, tmp_path):
    """The first of two that are alike tokenises for both, and only its own tokenizer cuts."""
    for name in ("first", "second"):
        tokenize = PairTokenizer(load_tokenizer(str(embedded_folder)), 4, 16)
        tokenize([f"a query of {name}"], ["a passage"])
        tokenize.save(tmp_path / name)
    saved = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second")]
    assert saved[0] == saved[1]
    state = json.loads(saved[0])
    assert state["truncation"] is None and state["padding"] is None


def test_the_room_for_a_passage(tokenize):
    """16 pieces, of which 4 are the query's and 4 special: <s> query </s></s> passage </s>."""
    assert tokenize.room == 8
    row = tokenize.row([5] * 4, [7] * 100)["input_ids"]
    assert row.count(7) == 8 and len(row) == 16


def test_what_is_remembered_has_an_end(tokenize, monkeypatch):
    import ranking.pairs

    monkeypatch.setattr(ranking.pairs, "REMEMBERED", 3)
    before = tokenize(["one two three"], ["four five six"])
    assert tokenize.pieces.count > 3
    tokenize(["seven"], ["eight"])
    assert (
        set(tokenize.pieces) == {"seven", "eight"}
        and tokenize(["one two three"], ["four five six"]) == before
    )


def test_a_passage_of_nothing(tokenize):
    (row,) = tokenize(["query"], [""])
    assert row["input_ids"] == tokenize.tokenizer(["query"], [""])["input_ids"][0] and row[
        "input_ids"
    ][-3:] == [2, 2, 2]


def test_no_fast_tokenizer():
    class Slow:
        is_fast, name_or_path = False, "some/model"

    with pytest.raises(
        InputError,
        match="some/model: has no fast tokenizer .tokenizer.json., which the rankers need",
    ):
        PairTokenizer(Slow(), 4, 16)
