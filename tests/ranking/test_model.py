import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    XLMRobertaConfig,
)

from core.errors import InputError
from ranking.model import CrossEncoder, set_body_dropout

SIZES = dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    num_labels=1,
)
IDS = torch.tensor([[0, 5, 6, 2], [0, 7, 8, 2]])


@pytest.mark.parametrize(
    "config",
    [BertConfig(**SIZES), XLMRobertaConfig(**SIZES, pad_token_id=1)],
    ids=["bert", "xlm-roberta"],
)
def test_without_dropout_every_sample_is_the_plain_forward(config):
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    body = AutoModelForSequenceClassification.from_config(config)
    model = CrossEncoder(body, [0.0, 0.0, 0.0]).train()
    plain = body(input_ids=IDS).logits[:, 0]
    made = model(input_ids=IDS)
    assert made.shape == (3, 2) and all(torch.allclose(row, plain, atol=1e-6) for row in made)
    assert torch.allclose(model.eval()(input_ids=IDS)[0], plain, atol=1e-6)


def test_each_rate_drops_its_share(tiny_body):
    """What reaches the last linear layer.

    The features with a share of zeros, the others scaled to keep the expectation.
    """
    model, seen = CrossEncoder(tiny_body, [0.0, 0.75]).train(), []
    tiny_body.classifier.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].detach())
    )
    torch.manual_seed(0)
    for _ in range(20):
        model(input_ids=IDS)
    features, dropped = (
        torch.stack(seen[1::3]),
        torch.stack(seen[2::3]),
    )  # each forward: the body's own, then one a rate
    kept = dropped != 0
    assert torch.equal(features, torch.stack(seen[0::3])) and torch.allclose(
        dropped[kept], 4 * features[kept]
    )
    assert kept.float().mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_bf16_gives_logits_in_fp32(training):
    """200 pairs, 200 values: with a last product in bf16 most would share theirs."""
    from small import body

    model = CrossEncoder(body().bfloat16(), [0.0, 0.0]).train(training)
    ids = torch.randint(3, 130, (200, 12), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=ids)
    assert logits.dtype == torch.float32
    assert len(logits[0].unique()) == 200
    last = model.body.classifier
    assert last.weight.dtype == torch.bfloat16, "the weights stay as they are"
    logits.sum().backward()
    assert last.weight.grad.dtype == torch.bfloat16 and last.weight.grad.abs().sum() > 0


def test_in_fp32_a_logit_is_the_plain_models_to_the_last_bit(tiny_body):
    plain = tiny_body.eval()(input_ids=IDS).logits[:, 0]
    assert torch.equal(CrossEncoder(tiny_body, [0.0]).eval()(input_ids=IDS)[0], plain)


def test_plain_transformers_loads_what_is_saved(tiny_body, tmp_path):
    model = CrossEncoder(tiny_body, [0.1])
    model.body.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again.eval()(input_ids=IDS).logits, model.eval().body(input_ids=IDS).logits)
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl")] == []


def test_an_architecture_without_an_entry():
    """Its head is found, and its own dropout stands aside."""
    config = DistilBertConfig(
        vocab_size=50,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=32,
        num_labels=1,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.4,
    )
    body = AutoModelForSequenceClassification.from_config(config)
    plain = body.eval()(input_ids=IDS).logits[:, 0]
    made = CrossEncoder(body, [0.0, 0.5]).train()(input_ids=IDS)
    assert torch.allclose(made[0], plain, atol=1e-6) and not torch.allclose(
        made[1], plain, atol=1e-6
    )


def test_an_architecture_whose_head_is_not_found():
    body = AutoModelForSequenceClassification.from_config(
        DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=2)
    )
    with pytest.raises(
        InputError,
        match="no multi-sample dropout for the architecture 'distilbert': found 0 linear layers "
        "to one logit outside distilbert, expected one .*it has bert, rembert",
    ):
        CrossEncoder(body, [0.1])


DROPOUT = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)


@pytest.mark.parametrize(
    "config, in_body, in_head",
    [
        (
            BertConfig(**SIZES, **DROPOUT, classifier_dropout=0.3),
            4,  # embeddings, attention, its output, the layer's output
            {"dropout": 0.3},
        ),
        (
            XLMRobertaConfig(**SIZES, **DROPOUT, classifier_dropout=0.3),
            4,
            {"classifier.dropout": 0.3},
        ),
        (
            DebertaV2Config(
                **SIZES, **DROPOUT, relative_attention=True, pooler_dropout=0.4, cls_dropout=0.3
            ),
            5,  # of relative positions, too
            {"pooler.dropout": 0.4, "dropout": 0.3},
        ),
    ],
    ids=["bert", "xlm-roberta", "deberta"],
)
def test_which_dropouts_the_bodys_rate_sets(config, in_body, in_head, tmp_path):
    body = AutoModelForSequenceClassification.from_config(config)
    set_body_dropout(body, 0.05)
    prefix = body.base_model_prefix + "."
    rates = {}
    for name, module in body.named_modules():
        if isinstance(module, torch.nn.Dropout):
            rates[name] = module.p
    of_body = [rate for name, rate in rates.items() if name.startswith(prefix)]
    of_head = {name: rate for name, rate in rates.items() if not name.startswith(prefix)}
    assert of_body == [0.05] * in_body
    assert of_head == in_head
    body.save_pretrained(tmp_path)
    saved = AutoConfig.from_pretrained(tmp_path)
    assert (saved.hidden_dropout_prob, saved.attention_probs_dropout_prob) == (0.1, 0.2)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_rate_that_attention_keeps_as_a_number_is_set_too(attention):
    config = ModernBertConfig(**SIZES, attention_dropout=0.5, pad_token_id=0)
    config._attn_implementation = attention
    body = AutoModelForSequenceClassification.from_config(config).train()
    assert not torch.equal(body(input_ids=IDS).logits, body(input_ids=IDS).logits)
    set_body_dropout(body, 0.0)
    assert torch.equal(body(input_ids=IDS).logits, body(input_ids=IDS).logits)
