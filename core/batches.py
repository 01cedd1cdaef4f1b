"""Batches of texts by their number of tokens."""

from collections.abc import Iterator, Sequence


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of about equal length, the longest first.

    ``lengths``: tokens of each row. Rows times the longest is at most ``budget``, but a batch has
    at least one row.
    """
    longest_first = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batch: list[int] = []
    for row in longest_first:
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
