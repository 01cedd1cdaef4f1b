"""sentence-transformers models, tiny and randomly drawn, against their own ``encode``."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from core.backbones import fingerprint
from core.errors import InputError
from retrieval import bodies, dense
from tests.core import hub

WORDS = ("tea grows in kenya and norway has fjords ask text oslo nairobi : . the of a is").split()
TEXTS = [
    "nairobi is the capital of kenya .",
    "tea",
    "a fjord of norway is a long and narrow inlet of the sea " * 3,
    "",
    "oslo : fjords",
]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A BERT of 2 layers of 16 with a tokenizer of words: the folder of plain transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = {piece: i for i, piece in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder = tmp_path_factory.mktemp("bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tiny_bert, tmp_path):
    """Saves a model of a Transformer and what ``tail`` makes of its 16 dimensions; gives both."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    def save(*tail, name="m", **settings):
        torch.manual_seed(1)
        body = Transformer(str(tiny_bert), max_seq_length=24)
        model = SentenceTransformer(modules=[body, *(make() for make in tail)], **settings)
        model.save(str(tmp_path / name))
        return tmp_path / name, SentenceTransformer(str(tmp_path / name), device="cpu")

    return save


def pooling(mode, **settings):
    from sentence_transformers.sentence_transformer.modules import Pooling

    return lambda: Pooling(16, mode, **settings)


def projection(width=8):
    from sentence_transformers.sentence_transformer.modules import Dense

    return lambda: Dense(16, width)


def normalisation():
    from sentence_transformers.sentence_transformer.modules import Normalize

    return Normalize()


def encoder_of(folder, overrides=None, layers=None, backend="torch"):
    return dense.Encoder(
        str(folder), folder, layers, 512, 64, "fp32", overrides or {}, backend=backend
    )


def same(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5


PROMPTS = {"query": "ask : ", "document": "text : "}


@pytest.mark.parametrize(
    "mode", ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_every_pooling(mode, saved):
    folder, model = saved(pooling(mode))
    encoder = encoder_of(folder)
    assert isinstance(encoder.body, bodies.ModularBody) and encoder.dimension == 16
    same(encoder.encode_passages(TEXTS), model.encode(TEXTS))


def test_several_poolings_side_by_side(saved):
    folder, model = saved(pooling(("mean", "max")))
    encoder = encoder_of(folder)
    assert encoder.dimension == 32
    same(encoder.encode_queries(TEXTS), model.encode(TEXTS))
    with pytest.raises(InputError, match="retrieval.dense.pooling: found cls, expected none for"):
        encoder_of(folder, {"pooling": "cls"})


def test_dense_normalisation_and_prompts(saved):
    """Its own vectors, of 8 dimensions and length 1, for queries and for passages."""
    folder, model = saved(pooling("mean"), projection(), normalisation, prompts=PROMPTS)
    encoder = encoder_of(folder)
    assert encoder.dimension == 8
    queries, passages = encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)
    same(queries, model.encode_query(TEXTS))
    same(passages, model.encode_document(TEXTS))
    assert np.abs(queries - passages).max() > 1e-3, "the prompts differ"
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)


def test_a_prompt_that_pooling_leaves_out(saved):
    folder, model = saved(pooling("mean", include_prompt=False), prompts=PROMPTS)
    encoder = encoder_of(folder)
    same(encoder.encode_queries(TEXTS), model.encode_query(TEXTS))
    without = model.encode([PROMPTS["query"] + text for text in TEXTS])
    assert np.abs(encoder.encode_queries(TEXTS) - without).max() > 1e-3


def test_a_passage_prompt_of_an_older_name(saved):
    folder, model = saved(pooling("mean"), prompts={"query": "", "passage": "text : "})
    same(encoder_of(folder).encode_passages(TEXTS), model.encode(TEXTS, prompt_name="passage"))


def test_vectors_cut_to_their_first_dimensions(saved):
    folder, _ = saved(pooling("mean"), normalisation)
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncate_dim": 4}))
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    encoder = encoder_of(folder)
    assert encoder.dimension == 4
    same(encoder.encode_queries(TEXTS), model.encode(TEXTS))
    made_long = encoder_of(folder, {"normalise": True}).encode_queries(TEXTS)
    assert np.allclose(np.linalg.norm(made_long, axis=1), 1, atol=1e-5)


def test_settings_come_before_the_models_own(saved):
    folder, model = saved(pooling("cls"), normalisation, prompts=PROMPTS)
    overrides = {"pooling": "mean", "normalise": False, "query_prefix": "", "passage_prefix": ""}
    _, plain = saved(pooling("mean"), name="plain")
    encoder = encoder_of(folder, overrides)
    same(encoder.encode_queries(TEXTS), plain.encode(TEXTS))
    same(encoder.encode_passages(TEXTS), plain.encode(TEXTS))
    folder, _ = saved(pooling("cls"), name="cls")
    same(
        encoder_of(folder, {"normalise": True}).encode_passages(TEXTS),
        model.encode(TEXTS, prompt=""),
    )


def test_the_length_is_the_models_own_at_most(saved):
    """24 tokens of the model; 8 of the setting: two special ones, and six words."""
    folder, model = saved(pooling("mean"))
    long = "tea grows in kenya and norway has fjords " * 9
    assert encoder_of(folder).body.max_lengths == {"query": 24, "passage": 24}
    same(encoder_of(folder).encode_passages([long]), model.encode([long]))
    short = dense.Encoder(str(folder), folder, None, 8, 64, "fp32")
    same(short.encode_passages([long]), model.encode(["tea grows in kenya and norway"]))


def test_the_first_layers(saved):
    folder, model = saved(pooling("mean"))
    del model[0].model.encoder.layer[1]
    same(encoder_of(folder, layers=1).encode_queries(TEXTS), model.encode(TEXTS))
    with pytest.raises(InputError, match="layers: found 3, expected at most 2"):
        encoder_of(folder, layers=3)


def test_openvino_runs_its_body(saved):
    folder, model = saved(pooling("weightedmean"), projection())
    same(encoder_of(folder, backend="openvino").encode_queries(TEXTS), model.encode(TEXTS))


def static(folder):
    """A model without a Transformer: the mean of words' vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=12)], prompts=PROMPTS, device="cpu"
    )


def test_a_model_that_encodes_by_itself(tiny_bert, tmp_path):
    model = static(tiny_bert)
    model.save(str(tmp_path / "m"))
    encoder = encoder_of(tmp_path / "m")
    assert isinstance(encoder.body, bodies.WholeModel) and encoder.dimension == 12
    same(encoder.encode_queries(TEXTS[:3]), model.encode_query(TEXTS[:3]))
    same(encoder.encode_passages(TEXTS[:3]), model.encode_document(TEXTS[:3]))
    made_long = encoder_of(tmp_path / "m", {"normalise": True}).encode_queries(TEXTS[:3])
    assert np.allclose(np.linalg.norm(made_long, axis=1), 1, atol=1e-5)
    with pytest.raises(InputError, match="layers: found 1, expected none: its first module is"):
        encoder_of(tmp_path / "m", layers=1)
    with pytest.raises(InputError, match="found openvino, expected torch .* StaticEmbedding"):
        encoder_of(tmp_path / "m", backend="openvino")


def edit(file, change):
    """Lets ``change`` alter the content of a JSON file."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


def test_modules_that_would_be_code_of_the_model(saved):
    folder, _ = saved(pooling("mean"))
    own = {"idx": 2, "name": "2", "path": "2_Own", "type": "modeling_own.Head"}
    edit(folder / "modules.json", lambda modules: [*modules, own])
    with pytest.raises(
        InputError, match="has the module modeling_own.Head, which is code of the model's own"
    ):
        encoder_of(folder)


def test_models_without_dense_vectors(saved):
    folder, _ = saved(pooling("mean"))
    edit(
        folder / "config_sentence_transformers.json",
        lambda settings: settings | {"model_type": "SparseEncoder"},
    )
    with pytest.raises(InputError, match="is a SparseEncoder, expected a SentenceTransformer"):
        encoder_of(folder)


def test_a_folder_without_modules_is_plain(saved, monkeypatch):
    """sentence-transformers, which takes many seconds, is not even imported."""
    folder, _ = saved(pooling("mean"))
    assert bodies.modules_of(str(folder)) is not None
    (folder / "modules.json").unlink()
    assert bodies.modules_of(str(folder)) is None
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert isinstance(encoder_of(folder).body, bodies.PlainBody)


def test_another_pooling_is_another_model(saved, models):
    """Its file lies in a folder of its own; vectors of the old pooling must not be reused."""
    folder, _ = saved(pooling("cls"))
    before = fingerprint(str(folder), models)
    edit(folder / "1_Pooling" / "config.json", lambda pool: pool | {"pooling_mode": "mean"})
    assert fingerprint(str(folder), models) != before


class Evil:
    def __reduce__(self):
        return print, ("this ran",)


def test_pickled_weights_of_a_module(saved, models, capfd):
    """Of tensors they are read, and known by their content; of anything else they are refused."""
    from safetensors.torch import load_file

    folder, model = saved(pooling("mean"), projection())
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), folder / "2_Dense" / "pytorch_model.bin")
    counted = fingerprint(str(folder), models)
    weights.unlink()
    same(encoder_of(folder).encode_queries(TEXTS), model.encode(TEXTS))
    before = fingerprint(str(folder), models)
    assert before != counted
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), 2))
    assert fingerprint(str(folder), models) != before
    with pytest.raises(InputError, match="pytorch_model.bin holds more than tensors"):
        encoder_of(folder)
    assert "this ran" not in capfd.readouterr().out


def test_a_body_that_is_not_whole(saved):
    from safetensors.torch import load_file, save_file

    folder, _ = saved(pooling("mean"))
    tensors = load_file(folder / "model.safetensors")
    lost = [name for name in tensors if "layer.1.output" in name]
    for name in lost:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError,
        match=f"its weights lack {len(lost)} tensors of the body BertModel, first "
        "encoder.layer.1.output",
    ):
        encoder_of(folder)


def test_a_model_of_the_hub(saved, tmp_path):
    """By its name, and offline from what was fetched."""
    folder, model = saved(pooling("weightedmean"), projection(), normalisation, prompts=PROMPTS)
    code = (
        "import numpy; from pathlib import Path; from retrieval import dense\n"
        "encoder = dense.Encoder('them/st', Path('x'), None, 512, 64, 'fp32')\n"
        f"numpy.save({str(tmp_path / 'vectors.npy')!r}, encoder.encode_queries({TEXTS!r}))\n"
    )
    server = hub.serve({"them/st": folder})
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = hub.run(server, tmp_path / "hf", code, **more)
        assert done.returncode == 0, done.stderr
        same(np.load(tmp_path / "vectors.npy"), model.encode_query(TEXTS))
        (tmp_path / "vectors.npy").unlink()
    server.shutdown()
    server.server_close()


def test_query_vectors_of_q2q2d(saved, config):
    """Its cosines need vectors of length 1, whatever the model gives."""
    from core.task import Task
    from data_aug.augment import query_vectors

    folder, model = saved(pooling("max"), prompts=PROMPTS)
    queries, vectors = query_vectors(Task(config()), str(folder), "en", "dev")
    expected = model.encode_query([q.text for q in queries], normalize_embeddings=True)
    same(vectors, expected)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", r".*modules.json, line 1: found text that is not JSON \(Expecting value"),
        ("[]", "modules.json: expected a list of modules with type and path"),
        ('[{"type": "x"}]', "modules.json: expected a list of modules with type and path"),
        (
            '[{"path": "", "type": "sentence_transformers.models.Transformer"}]',
            "cannot be loaded",
        ),
    ],
)
def test_a_folder_that_is_not_a_model(content, message, tmp_path):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(InputError, match=f"backbone {tmp_path}: {message}"):
        encoder_of(tmp_path)
