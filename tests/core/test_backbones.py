import json

import pytest
import torch

from core import backbones
from core.errors import InputError

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
        match=r"here: \d+.\d% of the pieces are unknown to this pruned vocabulary, at most 5% are accepted",
    ):
        backbones.refuse_unknown(small, small(["ไนโรบีเป็นเมืองหลวงของเคนยา"])["input_ids"], "here")


def test_only_unigram_tokenizers_are_pruned(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(InputError, match="works on Unigram tokenizers .* found WordPiece"):
        backbones.prune_tokenizer(tmp_path, [0], tmp_path)
