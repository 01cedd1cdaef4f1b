from core.batches import token_batches


def test_token_batches():
    lengths = [3, 9, 1, 5, 5, 20]
    batches = list(token_batches(lengths, 15))
    assert sorted(r for b in batches for r in b) == list(range(6))
    assert batches == [[5], [1], [3, 4, 0], [2]], (
        "a text over the budget goes alone; else rows x longest stay within it"
    )
