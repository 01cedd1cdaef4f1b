"""A little translation model of drawn weights: Marian with two SentencePiece models."""

import json
from pathlib import Path

WORDS = (
    "the capital of kenya is nairobi oslo norway tea grows in a fjord long narrow inlet city has "
    "four million people thing was not will be more"
).split()


def write(folder: Path, seed: int = 1) -> Path:
    """As transformers loads it. Sentences of up to 40 tokens."""
    import sentencepiece
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    texts = folder / "texts"
    texts.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(texts),
            model_prefix=str(folder / side),
            vocab_size=70,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    names = ["</s>", "<unk>"]
    for number in range(pieces.get_piece_size()):
        if pieces.id_to_piece(number) not in (*names, "<s>"):
            names.append(pieces.id_to_piece(number))
    names.append("<pad>")
    vocabulary = {name: number for number, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        model_max_length=40,
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    padding = vocabulary["<pad>"]
    settings = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=48,
        init_std=0.5,
        pad_token_id=padding,
        eos_token_id=0,
        bos_token_id=0,
        decoder_start_token_id=padding,
        forced_eos_token_id=0,
        bad_words_ids=[[padding]],
    )
    model = MarianMTModel(settings)
    with torch.no_grad():  # so that what comes out depends on what goes in
        for layer in model.model.decoder.layers:
            layer.encoder_attn.out_proj.weight *= 10
    model.save_pretrained(folder)
    return folder
