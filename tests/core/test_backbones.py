import json
import shutil

import pytest
import torch

from core import backbones
from core.errors import InputError
from tests.core import hub

TEXTS = ["Nairobi ni mji mkuu wa Kenya.", "肯尼亚的首都是内罗毕。", "عاصمة كينيا هي نيروبي"]


def test_unknown_backbone():
    with pytest.raises(
        InputError, match="unknown backbone 'bertt'; expected one of embedded, e5-small"
    ):
        backbones.backbone("bertt")


def test_too_many_layers(embedded_folder):
    with pytest.raises(InputError, match="layers: found 13, expected at most 12"):
        backbones.load_encoder(str(embedded_folder), 13)


def test_a_folder_that_cannot_be_loaded(tmp_path):
    with pytest.raises(
        InputError, match="cannot be loaded .*name a folder, or a hub id that this machine reaches"
    ):
        backbones.load_encoder(str(tmp_path))


def test_the_first_layers_are_the_bodys_own(embedded_folder):
    whole, part = (
        backbones.load_encoder(str(embedded_folder)),
        backbones.load_encoder(str(embedded_folder), 2),
    )
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    with torch.inference_mode():
        hidden = whole(ids, output_hidden_states=True).hidden_states[2]
        assert torch.allclose(part(ids).last_hidden_state, hidden, atol=1e-6)


def test_pruning_keeps_tokens_and_outputs(embedded_folder, tmp_path):
    tokenizer = backbones.load_tokenizer(str(embedded_folder))
    keep = backbones.used_pieces(tokenizer, TEXTS)
    backbones.prune_tokenizer(embedded_folder, keep, tmp_path)
    small = backbones.load_tokenizer(str(tmp_path))
    whole, pruned = (
        backbones.load_encoder(str(embedded_folder), 2),
        backbones.load_encoder(str(embedded_folder), 2),
    )
    backbones.prune_embeddings(pruned, keep)
    assert pruned.get_input_embeddings().weight.shape == (len(keep), 384) and len(keep) < 60
    for text in TEXTS:
        a, b = (
            tokenizer(text, TEXTS[0], return_tensors="pt"),
            small(text, TEXTS[0], return_tensors="pt"),
        )
        assert tokenizer.convert_ids_to_tokens(a["input_ids"][0]) == small.convert_ids_to_tokens(
            b["input_ids"][0]
        )
        with torch.inference_mode():
            assert torch.equal(whole(**a).last_hidden_state, pruned(**b).last_hidden_state)


def test_a_pruned_vocabulary_refuses_other_text(embedded_folder, tmp_path):
    tokenizer = backbones.load_tokenizer(str(embedded_folder))
    backbones.prune_tokenizer(embedded_folder, backbones.used_pieces(tokenizer, TEXTS), tmp_path)
    small = backbones.load_tokenizer(str(tmp_path))
    backbones.refuse_unknown(small, small(TEXTS)["input_ids"], "here")
    with pytest.raises(
        InputError,
        match=r"here: \d+.\d% of the pieces are unknown to this pruned vocabulary, "
        "at most 5% are accepted",
    ):
        backbones.refuse_unknown(small, small(["ไนโรบีเป็นเมืองหลวงของเคนยา"])["input_ids"], "here")


def test_only_unigram_tokenizers_are_pruned(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(InputError, match="works on Unigram tokenizers .* found WordPiece"):
        backbones.prune_tokenizer(tmp_path, [0], tmp_path)


def pickled(folder, into, shards=1):
    """A model's folder with its weights in ``pytorch_model.bin``, or in shards with their index."""
    from safetensors.torch import load_file

    shutil.copytree(folder, into)
    tensors = load_file(into / "model.safetensors")
    (into / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, into / "pytorch_model.bin")
        return into
    names = sorted(tensors)
    file_of = {name: f"pytorch_model-{i % shards + 1}.bin" for i, name in enumerate(names)}
    for file in set(file_of.values()):
        part = {name: tensors[name] for name in names if file_of[name] == file}
        torch.save(part, into / file)
    index = {"metadata": {}, "weight_map": file_of}
    (into / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return into


@pytest.fixture
def safe(tiny_body, tmp_path):
    """A tiny model's folder with safetensors."""
    tiny_body.save_pretrained(tmp_path / "safe")
    return tmp_path / "safe"


def outputs(where, layers=None):
    """(hidden states, logits) of the encoder and the cross-encoder of one checkpoint."""
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.inference_mode():
        hidden = backbones.load_encoder(str(where), layers)(ids).last_hidden_state
        logits = backbones.load_cross_encoder(str(where), layers).eval()(ids).logits
    return hidden, logits


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_in_pickles_of_tensors(shards, safe, tmp_path):
    folder = pickled(safe, tmp_path / "pickled", shards)
    for layers in (None, 1):
        for ours, expected in zip(outputs(folder, layers), outputs(safe, layers), strict=True):
            assert torch.equal(ours, expected)


def test_pickles_as_torch_wrote_them_before_2020(safe, tmp_path):
    """mDeBERTa's, RemBERT's and InfoXLM's are of that time."""
    folder = pickled(safe, tmp_path / "pickled")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    for ours, expected in zip(outputs(folder), outputs(safe), strict=True):
        assert torch.equal(ours, expected)


class Evil:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"bert.weight": torch.zeros(2), "more": Evil()}, "print"),
        ({"state_dict": {"bert.weight": torch.zeros(2)}}, "dict"),
        ({"weight": torch.zeros(2), "epoch": 3}, "int"),
        ([torch.zeros(2)], "list"),
    ],
)
@pytest.mark.parametrize("load", [backbones.load_encoder, backbones.load_cross_encoder])
def test_pickles_that_hold_more_than_tensors(load, content, reason, safe, tmp_path, capfd):
    folder = pickled(safe, tmp_path / "pickled")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(
        InputError,
        match=f"backbone {folder}: pytorch_model.bin holds more than tensors by their names "
        rf"\(found {reason}\); .*name a model with safetensors, or convert this one",
    ):
        load(str(folder))
    assert "this ran" not in capfd.readouterr().out


def test_a_shard_that_is_evil_or_missing(safe, tmp_path):
    folder = pickled(safe, tmp_path / "pickled", 3)
    torch.save({"x": Evil()}, folder / "pytorch_model-2.bin")
    with pytest.raises(InputError, match="pytorch_model-2.bin holds more than tensors"):
        backbones.load_encoder(str(folder))
    (folder / "pytorch_model-2.bin").unlink()
    with pytest.raises(InputError, match="index.json names pytorch_model-2.bin, which is not th"):
        backbones.load_encoder(str(folder))


def test_a_pickle_that_is_cut_off(safe, tmp_path):
    folder = pickled(safe, tmp_path / "pickled")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"backbone {folder}: pytorch_model.bin "):
        backbones.load_encoder(str(folder))


def test_safetensors_come_first(safe, tmp_path):
    """A pickle beside them is not even opened, and does not count."""
    folder = tmp_path / "both"
    shutil.copytree(safe, folder)
    before = backbones.fingerprint(str(folder), tmp_path)
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    assert backbones.fingerprint(str(folder), tmp_path) == before
    for ours, expected in zip(outputs(folder), outputs(safe), strict=True):
        assert torch.equal(ours, expected)


def test_pickled_weights_count(safe, tmp_path):
    folder = pickled(safe, tmp_path / "pickled")
    (folder / "training_args.bin").write_bytes(b"not weights")
    before = backbones.fingerprint(str(folder), tmp_path)
    (folder / "training_args.bin").write_bytes(b"neither")
    assert backbones.fingerprint(str(folder), tmp_path) == before
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = next(iter(tensors))
    torch.save(tensors | {name: tensors[name] + 1}, folder / "pytorch_model.bin")
    assert backbones.fingerprint(str(folder), tmp_path) != before


def without(folder, part):
    """Takes the tensors away that have ``part`` in their names; gives how many."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: values for name, values in tensors.items() if part not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return len(tensors) - len(kept)


def test_a_body_with_holes_is_refused(safe):
    """They would be filled with random numbers, without a word."""
    lost = without(safe, "layer.1.output.dense")
    assert lost == 2
    with pytest.raises(
        InputError,
        match="its weights lack 2 tensors of the body BertModel, "
        "first encoder.layer.1.output.dense.bias, encoder.layer.1.output.dense.weight; "
        "config.json and the weights are not of one model",
    ):
        backbones.load_encoder(str(safe))
    with pytest.raises(
        InputError,
        match="lack 2 tensors of the body BertForSequenceClassification, "
        "first bert.encoder.layer.1.output.dense.bias",
    ):
        backbones.load_cross_encoder(str(safe))
    backbones.load_encoder(str(safe), 1)


@pytest.mark.parametrize("head", ["classifier", "pooler"])
def test_a_head_may_be_missing(head, safe):
    assert without(safe, head) == 2
    backbones.load_encoder(str(safe))
    backbones.load_cross_encoder(str(safe))


def test_weights_of_other_sizes_are_refused(safe):
    config = json.loads((safe / "config.json").read_text())
    (safe / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(InputError, match=f"backbone {safe}: cannot be loaded"):
        backbones.load_encoder(str(safe))


def test_a_hubs_tokenizer_is_pruned(tmp_path):
    """Its files are not in a folder that the name spells."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("▁tea", -1.0), ("▁oslo", -1.0), ("▁fjord", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pruned").mkdir()
    code = (
        "from pathlib import Path; from core import backbones\n"
        f"backbones.prune_tokenizer(Path('them/model'), [0, 1, 4], Path('{tmp_path}/pruned'))\n"
    )
    server = hub.serve({"them/model": tmp_path / "model"})
    done = hub.run(server, tmp_path / "hf", code)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    assert backbones.load_tokenizer(str(tmp_path / "pruned"))("fjord")["input_ids"] == [2]


LOADED_FROM_THE_HUB = """
import torch
from core import backbones
ids = torch.tensor([[2, 5, 6, 7, 3]])
for name in ("them/whole", "them/shards"):
    with torch.inference_mode():
        hidden = backbones.load_encoder(name, None)(ids).last_hidden_state
        logits = backbones.load_cross_encoder(name, None).eval()(ids).logits
    print(name, f"{hidden[0, 0, 0]:.4f} {logits[0, 0]:.4f}")
"""


def test_pickled_weights_from_a_hub(safe, tmp_path):
    """As mDeBERTa, RemBERT and InfoXLM are on their main branch. Neither the conversion service nor
    a pull request of its is asked for, and a machine without a network has what was fetched."""
    server = hub.serve(
        {
            "them/whole": pickled(safe, tmp_path / "whole"),
            "them/shards": pickled(safe, tmp_path / "shards", 2),
        }
    )
    first = hub.run(server, tmp_path / "hf", LOADED_FROM_THE_HUB)
    hidden, logits = outputs(safe)  # threads move the last digits, so not all are compared
    values = f"{hidden[0, 0, 0]:.4f} {logits[0, 0]:.4f}"
    expected = f"them/whole {values}\nthem/shards {values}\n"
    assert (first.returncode, first.stdout) == (0, expected), first.stderr
    assert [path for path in server.asked if "/commits/" in path] == [], "as a conversion begins"
    asked = len(server.asked)
    offline = hub.run(server, tmp_path / "hf", LOADED_FROM_THE_HUB, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, expected), offline.stderr
    assert len(server.asked) == asked
    server.shutdown()
    server.server_close()


def test_a_model_that_nobody_answers_for(tmp_path):
    """No file is taken for absent because it cannot be asked for; without a network and a cache
    each way of loading says so."""
    code = (
        "from core import backbones; from retrieval import bodies; from core.errors import *\n"
        "for ask in (bodies.modules_of, backbones.weights_of, backbones.load_tokenizer):\n"
        "    try: print(ask('them/model'))\n"
        "    except InputError as error: print(str(error)[:39], end='')\n"
    )
    server = hub.serve({})
    done = hub.run(server, tmp_path / "hf", code, HF_HUB_OFFLINE="1")
    server.shutdown()
    server.server_close()
    assert done.stdout == "backbone them/model: cannot be loaded (" * 3, done.stderr


def test_sizes_for_estimates(tmp_path):
    """Work goes with layers and the square of the width; the embedded model's is 1."""
    assert backbones.sized("embedded").work == 1
    assert backbones.sized("embedded", layers=3).work == 0.25
    assert backbones.sized("infoxlm-large").work == pytest.approx(24 / 12 * (1024 / 384) ** 2)
    assert backbones.sized("somebody/unknown").work == 4
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 6, "hidden_size": 768}')
    assert backbones.sized(str(tmp_path)).work == 2


def test_rembert_of_a_sentencepiece_model_has_its_special_pieces(tmp_path):
    """transformers 5 loses them; they stay when the tokenizer is saved and loaded again."""
    from tests import world

    texts = world.Language("en").texts()
    world.spm(tmp_path / "sentencepiece.model", texts, **world.REMBERT)
    (tmp_path / "config.json").write_text('{"model_type": "rembert"}')
    tokenizer = backbones.load_tokenizer(str(tmp_path))
    tokenizer.save_pretrained(tmp_path / "saved")
    for one in (tokenizer, backbones.load_tokenizer(str(tmp_path / "saved"))):
        pair = one("ab", "cd")["input_ids"]
        first, second = (one(text, add_special_tokens=False)["input_ids"] for text in ("ab", "cd"))
        cls, sep = one.cls_token_id, one.sep_token_id
        assert pair == [cls, *first, sep, *second, sep]
        assert one("ab")["input_ids"] == [cls, *first, sep]
