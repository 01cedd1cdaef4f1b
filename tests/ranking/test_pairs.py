import pytest

from core.backbones import load_tokenizer
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
    assert padded["input_ids"].shape == padded["attention_mask"].shape and padded["attention_mask"][0].sum() < padded["attention_mask"][1].sum()
