"""Training groups on disk: parquet, a row a pair; and mapped into memory, where there are millions.

``read_groups`` gives Python objects, about 1.5 KB a pair. A training reads a PairTable instead:
Arrow columns in a file that all processes of a machine share, strings as codes into dictionaries.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError
from core.files import finished_file
from core.records import TrainingPair

if TYPE_CHECKING:
    import numpy
    import pyarrow

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
ENCODED = [name for name, kind in COLUMNS.items() if kind == "string"]


def write_groups(path: Path, pairs: Iterable[TrainingPair]) -> None:
    """One parquet file. Raises InputError for a label outside [0, 1]."""
    write_table(path, as_table(pairs))


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """As ``write_groups``, of Arrow columns."""
    import pyarrow.parquet

    check_labels(path, table)
    pyarrow.parquet.write_table(table, path)


def as_table(pairs: Iterable[TrainingPair]) -> "pyarrow.Table":
    """The pairs as Arrow columns."""
    import pyarrow

    schema = pyarrow.schema([(name, plain_type(name)) for name in COLUMNS])
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for pair in pairs:
        for column, value in zip(columns.values(), pair, strict=True):
            column.append(value)
    return pyarrow.table(columns, schema=schema)


def plain_type(column: str) -> "pyarrow.DataType":
    """Arrow's type of a column, without a dictionary."""
    import pyarrow

    return getattr(pyarrow, COLUMNS[column])()


def read_groups(path: Path) -> list[TrainingPair]:
    """All pairs of a file, as Python objects.

    Raises InputError for other columns, an empty file and a label outside [0, 1], which is not
    written either.
    """
    return pairs_of(read_table(path))


def pairs_of(table: "pyarrow.Table | pyarrow.RecordBatch") -> list[TrainingPair]:
    """Rows as Python objects."""
    return [TrainingPair(*row.values()) for row in table.to_pylist()]


def joined(tables: Sequence["pyarrow.Table"]) -> "pyarrow.Table":
    """The rows of several tables, one after another."""
    import pyarrow

    return pyarrow.concat_tables(tables).combine_chunks()


def read_table(path: Path, encoded: bool = False) -> "pyarrow.Table":
    """A file's columns, checked as for ``read_groups``; ``encoded``: strings as codes."""
    import pyarrow.parquet

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    table = pyarrow.parquet.read_table(path, read_dictionary=ENCODED if encoded else None)
    before_other_languages = list(COLUMNS)[:-1]  # files from before passages of other languages
    if table.column_names not in (list(COLUMNS), before_other_languages):
        raise InputError(f"{path}: found columns {table.column_names}, expected {list(COLUMNS)}")
    if not table.num_rows:
        raise InputError(
            f"{path}: no training pairs; are there judged train queries in the chosen languages?"
        )
    check_labels(path, table)
    return table


def check_labels(path: Path, table: "pyarrow.Table") -> None:
    """Raises InputError for the first label that is no number in [0, 1]."""
    import numpy as np

    labels = table.column("label").to_numpy()
    is_right = (labels >= 0) & (labels <= 1)  # not so NaN
    wrong = np.flatnonzero(~is_right)
    if len(wrong):
        number = int(wrong[0])
        label = table.column("label")[number].as_py()
        origin = table.column("origin")[number].as_py()
        raise InputError(
            f"{path}, row {number}: label {label} ({origin}), expected a number in [0, 1]"
        )


class PairTable:
    """Training pairs as Arrow columns, each string column as codes into its dictionary.

    All tables of one file have the same dictionaries, so codes can be compared between them.
    """

    def __init__(self, batch: "pyarrow.RecordBatch"):
        self.batch = batch

    def __len__(self) -> int:
        return self.batch.num_rows

    @property
    def labels(self) -> "numpy.ndarray":
        """Float32 [pairs], not copied."""
        return self.batch.column("label").to_numpy()

    def codes(self, column: str) -> "numpy.ndarray":
        """Int32 [pairs] of a string column, not copied."""
        return self.batch.column(column).indices.to_numpy()

    def dictionary(self, column: str) -> "pyarrow.Array":
        """The strings that the codes stand for."""
        return self.batch.column(column).dictionary

    def pairs(self, rows: "Sequence[int] | numpy.ndarray") -> list[TrainingPair]:
        """Some rows as Python objects."""
        import pyarrow

        chosen = self.batch.take(pyarrow.array(rows, pyarrow.int64()))
        return pairs_of(chosen)


def pair_tables(draws: Sequence["pyarrow.Table"]) -> list[PairTable]:
    """Tables of one schema, with dictionaries that are common to all."""
    return [PairTable(batch) for batch in encoded_batches(draws)]


def encoded_batches(draws: Sequence["pyarrow.Table"]) -> list["pyarrow.RecordBatch"]:
    """One record batch a table, string columns as codes into common dictionaries."""
    import pyarrow

    kinds: dict[str, pyarrow.DataType] = {}
    for name in COLUMNS:
        kinds[name] = plain_type(name)
        if name in ENCODED:
            kinds[name] = pyarrow.dictionary(pyarrow.int32(), kinds[name])
    schema = pyarrow.schema(list(kinds.items()))
    whole = []
    for table in draws:
        if "passage_language" not in table.column_names:
            none = pyarrow.array([""] * table.num_rows, "string")
            table = table.append_column("passage_language", none)
        whole.append(table.cast(schema).unify_dictionaries().combine_chunks())
    # one chunk a table; combine_chunks would make one of all
    return pyarrow.concat_tables(whole).unify_dictionaries().to_batches()


def write_mapped(draws: Sequence[Path], path: Path) -> None:
    """Turns parquet files into the one Arrow file that ``open_mapped`` maps.

    Raises InputError as ``read_groups`` does.
    """
    import pyarrow

    batches = encoded_batches([read_table(draw, encoded=True) for draw in draws])
    with finished_file(path, "wb") as file, pyarrow.ipc.new_file(file, batches[0].schema) as out:
        for batch in batches:
            out.write_batch(batch)


def open_mapped(path: Path) -> list[PairTable]:
    """The tables of ``write_mapped``, mapped into memory: processes share what they read of it."""
    import pyarrow

    reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
    batches = range(reader.num_record_batches)
    return [PairTable(reader.get_batch(number)) for number in batches]
