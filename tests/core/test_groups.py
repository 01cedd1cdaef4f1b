import pyarrow
import pyarrow.parquet
import pytest

from core.errors import InputError
from core.groups import read_groups, write_groups
from core.records import TrainingPair

PAIR = TrainingPair("th", "1", "a#0", 0.25, "judged", 0, "", "judgment")


def test_round_trip_and_same_bytes(tmp_path):
    pairs = [PAIR, PAIR._replace(label=1.0, origin="top_negatives", reason="rank 3")]
    write_groups(tmp_path / "a.parquet", pairs)
    write_groups(tmp_path / "b.parquet", pairs)
    assert read_groups(tmp_path / "a.parquet") == pairs
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_what_is_wrong_is_said(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match="x.parquet: no such file"):
        read_groups(path)
    write_groups(path, [])
    with pytest.raises(InputError, match="no training pairs; are there judged train queries"):
        read_groups(path)
    with pytest.raises(
        InputError, match=r"row 1: label 1.5 \(judged\), expected a number in \[0, 1\]"
    ):
        write_groups(path, [PAIR, PAIR._replace(label=1.5)])
    write_groups(path, [PAIR, PAIR])
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(
        table.set_column(3, "label", pyarrow.array([0.0, -0.5], "float32")), path
    )
    with pytest.raises(
        InputError, match=r"row 1: label -0.5 \(judged\), expected a number in \[0, 1\]"
    ):
        read_groups(path)
    pyarrow.parquet.write_table(pyarrow.table({"qid": ["1"]}), path)
    with pytest.raises(InputError, match=r"found columns \['qid'\], expected \['language', 'qid'"):
        read_groups(path)
