"""Training groups on disk: parquet, a row a pair."""

from collections.abc import Iterable
from pathlib import Path

from core.errors import InputError
from core.records import TrainingPair

COLUMNS = {
    "language": "string",
    "qid": "string",
    "docid": "string",
    "label": "float32",
    "origin": "string",
    "round": "int32",
    "teacher": "string",
    "reason": "string",
    "passage_language": "string",
}


def write_groups(path: Path, pairs: Iterable[TrainingPair]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    pairs = list(pairs)
    check_labels(path, pairs)
    table = pyarrow.table(
        {name: [pair[i] for pair in pairs] for i, name in enumerate(COLUMNS)}, schema=schema
    )
    pyarrow.parquet.write_table(table, path)


def read_groups(path: Path) -> list[TrainingPair]:
    """Raises InputError for other columns, an empty file and a label outside [0, 1], which is not written either."""
    import pyarrow.parquet

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    table = pyarrow.parquet.read_table(path)
    if table.column_names not in (
        list(COLUMNS),
        list(COLUMNS)[:-1],
    ):  # files from before passages of other languages
        raise InputError(f"{path}: found columns {table.column_names}, expected {list(COLUMNS)}")
    pairs = [TrainingPair(*row.values()) for row in table.to_pylist()]
    if not pairs:
        raise InputError(
            f"{path}: no training pairs; are there judged train queries in the chosen languages?"
        )
    check_labels(path, pairs)
    return pairs


def check_labels(path: Path, pairs: list[TrainingPair]) -> None:
    for number, pair in enumerate(pairs):
        if not 0 <= pair.label <= 1:
            raise InputError(
                f"{path}, row {number}: label {pair.label} ({pair.origin}), expected a number in [0, 1]"
            )
