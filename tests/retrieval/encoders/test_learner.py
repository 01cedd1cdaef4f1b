"""What a batch is on each process, which passages are negatives, and gradients with caching."""

import copy
import math

import little
import numpy as np
import pytest
import torch

from core.errors import InputError
from retrieval.encoders.learner import Pass, backward_passes, scored_of
from training import engine as deep


def made(tmp_path, **more):
    other = {name: more.pop(name) for name in ("dropout", "towers", "normalise", "negatives", "dev")
             if name in more}  # fmt: skip
    return little.learner(little.settings(tmp_path, **more), tmp_path, **other)


def on_process(monkeypatch, learner, rank, world, step=0):
    """The batches of a step as one of several processes makes them."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    learner.shape = learner.shape._replace(queries=learner.settings.batch_size // world)
    return learner.batches(step)


# ---- Batches


def test_a_batch_of_one_process(tmp_path):
    learner = made(tmp_path)
    first, second = learner.batches(3)
    assert (first.number, second.number, first.step) == (6, 7, 3) and first.count == 4
    assert first.columns.reshape(4, 3).tolist() == [
        [3 * n, 3 * n + 1, -1 if n % 5 == 2 else 3 * n + 2] for n in first.examples.tolist()
    ]
    assert first.own_columns.tolist() == [0, 3, 6, 9]
    texts = learner.material.corpus.texts(first.columns[first.passage_places])
    assert first.passages == learner.tokens.rows(texts, "passage")
    assert len(first.queries) == 4 and first.weights.tolist() == [1.0] * 4
    assert set(first.languages) <= {"en", "sw"}
    assert sorted(np.concatenate([b.examples for s in range(3) for b in learner.batches(s)])) == [
        *range(24)
    ]


@pytest.mark.parametrize("batches", ["shuffled", "by_language"])
def test_processes_have_parts_of_one_batch(tmp_path, monkeypatch, batches):
    learner = made(tmp_path, batches=batches, batch_size=10, accumulation=1)
    for step in range(2):  # by language one of its examples has no place: 12 fill one batch of 10
        (whole,) = on_process(monkeypatch, learner, 0, 1, step)
        parts = [on_process(monkeypatch, learner, rank, 2, step)[0] for rank in (0, 1)]
        for part in parts:
            assert part.count == whole.count
            assert np.array_equal(part.columns, parts[0].columns), "all know all passages"
        assert sorted([*parts[0].examples, *parts[1].examples]) == sorted(whole.examples)
        assert sorted(parts[0].columns[parts[0].columns >= 0]) == sorted(
            whole.columns[whole.columns >= 0]
        )
        for rank, part in enumerate(parts):
            own = part.columns[part.own_columns]
            assert own.tolist() == (3 * part.examples).tolist()
            assert part.own_columns.min() == rank * part.shape.passages


def test_short_batches_leave_places_empty(tmp_path, monkeypatch):
    learner = made(tmp_path, batches="by_language", batch_size=16, accumulation=1, negatives=False)
    (whole,) = learner.batches(0)
    assert len(whole.examples) == 12 and whole.columns.tolist()[12:] == [-1] * 4
    (last,) = on_process(monkeypatch, learner, 7, 8)
    assert len(last.examples) == 1 and last.columns.reshape(8, 2)[7].tolist() == [
        3 * last.examples[0], -1
    ]  # fmt: skip
    scored = scored_of(whole, torch.zeros(16, 2), torch.zeros(16, 2))
    assert not scored.negative[:, 12:].any() and not scored.negative[12:].any()
    assert not scored.positive[12:].any() and scored.positive.sum() == 12


def test_all_but_relevant_passages_are_negatives(tmp_path):
    learner = made(tmp_path, batch_size=8, accumulation=1)
    (batch,) = learner.batches(1)
    scored = scored_of(batch, torch.zeros(8, 2), torch.zeros(24, 2))
    for row, number in enumerate(batch.examples.tolist()):
        relevant = {3 * number, 3 * number + 1} if number % 4 == 0 else {3 * number}
        for column, passage in enumerate(batch.columns.tolist()):
            is_negative = passage not in relevant and passage != -1
            assert bool(scored.negative[row, column]) == is_negative
            assert bool(scored.positive[row, column]) == (column == batch.own_columns[row])


def test_one_passage_at_two_places_is_relevant_at_both(tmp_path):
    learner = made(tmp_path)
    (batch, _) = learner.batches(0)
    rows, columns = batch.relevant_among(
        np.array([7, 3 * batch.examples[1], 99, 3 * batch.examples[1]])
    )
    assert rows.tolist() == [1, 1] and columns.tolist() == [1, 3]
    rows, columns = batch.relevant_among(np.zeros(0, np.int64))
    assert len(rows) == len(columns) == 0


# ---- Gradients


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_cached_gradients_are_the_plain_ones_with_the_same_dropout(tmp_path, towers):
    plain_losses, plain = little.gradients(made(tmp_path, dropout=0.1, towers=towers))
    losses, cached = little.gradients(
        made(tmp_path, dropout=0.1, towers=towers, gradient_caching=True)
    )
    assert losses == pytest.approx(plain_losses, abs=1e-6)
    assert max(float(g.abs().max()) for g in plain.values()) > 0.05
    for name, gradient in plain.items():
        assert float((cached[name] - gradient).abs().max()) < 1e-6, name
    without, _ = little.gradients(made(tmp_path, dropout=0.0, towers=towers))
    assert without != pytest.approx(losses, abs=1e-3), "dropout was at work"


def test_how_texts_are_cut_into_chunks_does_not_matter(tmp_path):
    losses, small = little.gradients(made(tmp_path, batch_tokens=24))
    other, large = little.gradients(made(tmp_path, batch_tokens=4096))
    assert losses == pytest.approx(other, abs=1e-6)
    for name, gradient in small.items():
        assert float((large[name] - gradient).abs().max()) < 1e-6, name


def test_in_half_precision(tmp_path):
    exact, _ = little.gradients(made(tmp_path))
    losses, _ = little.gradients(made(tmp_path, precision="bf16"))
    assert losses == pytest.approx(exact, rel=0.05) and losses != exact
    cached, _ = little.gradients(made(tmp_path, precision="bf16", gradient_caching=True))
    assert cached == losses


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_of_sentence_transformers_on_the_same_batch(tmp_path, normalise):
    """Their model, their loss; ours has the same value to 1e-5."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim, dot_score

    learner = made(tmp_path, batch_size=8, accumulation=1, negatives=False, normalise=normalise)
    learner.save(tmp_path / "model")
    (batch,) = learner.batches(0)
    losses, _ = little.gradients(learner)
    opened = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    temperature = 0.05 if normalise else 1.0
    theirs = MultipleNegativesRankingLoss(
        opened, scale=1 / temperature, similarity_fct=cos_sim if normalise else dot_score
    )
    columns = [dict(learner.tokens.pad(rows, "cpu")) for rows in (batch.queries, batch.passages)]
    with torch.no_grad():
        expected = theirs(columns, torch.zeros(8)).item()
    assert losses == [pytest.approx(expected, abs=1e-5)]


def test_the_first_backward_pass_goes_through_both_bodies():
    def one(tower, trained=True):
        return Pass(None, tower, None, 0, None, trained)

    query, passage = one("query"), one("passage")
    assert backward_passes([query, query, passage, passage]) == [[0, 2], [1], [3]]
    assert backward_passes([query, passage._replace(trained=False), query]) == [[0], [2]]
    assert backward_passes([one("shared")]) == [[0]]


# ---- What the loop asks


def test_entries_keep_their_states_apart(tmp_path):
    learner = made(tmp_path, in_batch=["queue"], queue={"size": 20})
    deep.start()
    little.gradients(learner)
    state = learner.state()
    assert sorted(state) == ["queue/all.ids", "queue/all.next", "queue/all.vectors"]
    again = made(tmp_path, in_batch=["queue"], queue={"size": 20})
    again.restore(copy.deepcopy(state))
    assert again.state().keys() == state.keys()
    for name, tensor in again.state().items():
        assert torch.equal(tensor, state[name])


def test_batches_wait_where_an_entry_asks_for_it(tmp_path):
    learner = made(tmp_path)
    assert not learner.waits(0)
    learner.order.waits = lambda step: step == 3
    assert learner.waits(3) and not learner.waits(4)


def test_a_loss_that_is_no_number_names_passages_and_layer(tmp_path):
    learner = made(tmp_path)
    with torch.no_grad():
        body = learner.model.towers["shared"]
        body.encoder.layer[1].output.dense.weight[0, 0] = math.nan
    with pytest.raises(
        InputError,
        match=r"toy: the loss is nan at step 1 \(passages (en|sw)/d\d+, .*; first not finite in "
        r"the layer towers.shared.encoder.layer.1.output.dense\); lower learning_rate, raise temp",
    ):
        little.gradients(learner)


def test_what_did_not_fit(tmp_path):
    assert made(tmp_path).too_large([]) == (
        "with 16 texts of up to 24 tokens at once; set gradient_caching=true (the same steps), "
        "lower batch_size, or set gradient_checkpointing=true"
    )
    assert "lower batch_tokens, lower batch_size" in made(
        tmp_path, gradient_caching=True
    ).too_large([])


def test_batches_that_processes_cannot_share(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"toy: batch_size 4 .* among 3; set batch_size to 3 or 6"):
        made(tmp_path)


def test_temperature_by_similarity(tmp_path):
    assert made(tmp_path).temperature == 0.05
    assert made(tmp_path, normalise=False).temperature == 1.0
    assert made(tmp_path, temperature=0.2).temperature == 0.2
