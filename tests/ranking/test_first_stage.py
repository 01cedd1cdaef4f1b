"""Rankers that add their logits to the hybrid's scores: the weight, training, runs, refusals."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import data_of, learner, settings
from torch.nn.functional import log_softmax

from core.artefacts import RankedRun, TrainedRanker
from core.errors import InputError
from core.records import TrainingPair
from core.runs import read_run
from core.task import Task
from ranking import first_stage, rank, rankers, trainings
from ranking.rerank import FIRST_STAGE
from training import engine


def pair(qid, docid, label=0.0):
    return TrainingPair("en", qid, docid, label, "judged", 0, "", "")


GROUPS = [pair("1", "a", 1.0), pair("1", "b"), pair("2", "c", 1.0), pair("2", "d")]


def fitted(*scores):
    data = data_of([GROUPS], per_step=1)
    return first_stage.fitted_weight(data, np.array(scores, np.float32), "mine")


def test_the_weight_is_the_best_for_the_groups_by_hand():
    """The relevant passage is 1 above the other once and 1/2 below it once.

    The loss log(1 + e^-w) + log(1 + e^(w/2)) is least where x^3 = x + 2 with x = e^(w/2).
    """
    weight = fitted(3.0, 2.0, 0.5, 1.0)
    x = math.exp(weight / 2)
    assert x**3 == pytest.approx(x + 2, abs=1e-3) and weight == pytest.approx(0.8393, abs=1e-3)
    assert fitted(0.3, 0.2, 0.05, 0.1) == pytest.approx(10 * weight, rel=1e-3)


@pytest.mark.parametrize(
    "scores, message",
    [
        (
            (1.0, 1.0, 5.0, 5.0),
            "ranking: mine: first_stage=auto: all passages of its training queries have one score "
            "by the hybrid, which tells nothing; take the setting away",
        ),
        (
            (1.0, 2.0, 5.0, 5.5),
            "ranking: mine: first_stage=auto: the hybrid's scores put other passages above the "
            "relevant ones of the training groups, so that no weight above 0 helps; set a number, "
            "or take the setting away",
        ),
    ],
)
def test_scores_that_give_no_weight(scores, message):
    with pytest.raises(InputError) as error:
        fitted(*scores)
    assert str(error.value) == message


def test_the_loss_is_that_of_the_sum(tmp_path):
    """Against plain torch, on a model without dropout."""
    engine.start()
    rows = [pair(f"q{number // 4}", f"d{number}", float(number % 4 == 0)) for number in range(32)]
    s = settings(
        tmp_path,
        loss="listwise_softmax",
        group_size=4,
        batch_size=8,
        accumulation=1,
        dropouts=[0.0],
        fgm={"epsilon": 0.0},
    )
    added = torch.linspace(-3, 3, len(rows))
    made = learner(s, rows=rows, dropout=0.0, first_stage=[added.numpy()])
    (batch,) = made.batches(0)
    part = made.data.part(0)
    numbers = np.concatenate(part.samples)
    assert batch.first_stage == pytest.approx(added[numbers].tolist())
    inputs = made.tokenize.pad(batch.inputs, "cpu")
    of_batch = torch.tensor(batch.first_stage).view(2, 4)
    expected = -log_softmax(made.model(**inputs).view(2, 4) + of_batch, 1)[:, 0].mean().detach()

    class Engine:
        device = "cpu"

        def __call__(self, **inputs):
            return made.model(**inputs)

        def backward(self, loss):
            self.loss = loss

    assert made.learn(Engine(), batch, 0)["clean"] == pytest.approx(float(expected), abs=1e-6)


@pytest.fixture
def adding(trained, tmp_path):
    """A task whose ranker ``small`` adds to the hybrid's scores, beside some of the others."""
    task, _ = trained

    def made(*others, **changes):
        ranking = task.config.ranking
        small = ranking.rankers["small"].model_copy(update=changes)
        beside = {name: ranking.rankers[name] for name in others}
        ranking = ranking.model_copy(update={"rankers": {"small": small, **beside}})
        return Task(task.config.model_copy(update={"ranking": ranking}))

    return made


def test_what_is_added_in_training_and_kept_with_the_model(adding, tmp_path, capsys):
    task = adding(first_stage=4.0)
    made = trainings.learner(task, "small", rank.plan(task), tmp_path)
    (draw,) = made.data.draws
    for row, found in zip(draw.pairs(range(len(draw))), made.first_stage[0].tolist(), strict=True):
        run = read_run(task.step(RankedRun("hybrid", row.language, "train")).path / "run.trec")
        lowest = min(run[row.qid].values())
        assert found == pytest.approx(4 * run[row.qid].get(row.docid, lowest))
    assert "small adds to 4 times the hybrid's scores: " in capsys.readouterr().out
    made.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())[FIRST_STAGE] == 4.0
    assert made.dev.weight == 4.0


def test_runs_are_the_sum(adding, tmp_path):
    """The best of the hybrid by logit + weight x score; the hybrid itself where the head is 0."""
    task = adding(first_stage=2.0)
    step = rank.plan(task)[TrainedRanker("small").step_name]
    made = trainings.learner(task, "small", rank.plan(task), tmp_path)
    step.path.mkdir(parents=True)
    made.save(step.path / "model")
    scorer = rankers.load(task, "small", step)
    assert scorer.first_stage == 2.0
    hybrid = task.run("hybrid", "en", "testA")
    (tmp_path / "run").mkdir()
    rank.build_run(task, lambda: scorer, "small", "en", "testA", tmp_path / "run")
    run = read_run(tmp_path / "run" / "run.trec")
    texts = rankers.texts_of(task, "en", "testA")
    for qid, scores in hybrid.items():
        docid = max(scores, key=lambda docid: scores[docid])
        logit = float(scorer(*texts([(qid, docid)]))[0])
        assert run[qid][docid] == pytest.approx(logit + 2 * scores[docid], abs=1e-5)
    scorer.forward = lambda inputs: torch.zeros(len(inputs["input_ids"]))
    sample = rankers.DevSample(task, task.config.ranking.rankers["small"], 9, 4)
    assert sample.mean(sample.rerank(scorer)) == sample.first_stage


def test_the_hybrids_runs_of_train_are_inputs(adding):
    inputs = rank.plan(adding(first_stage="auto"))["ranker/small"].recipe["inputs"]
    without = rank.plan(adding())["ranker/small"].recipe["inputs"]
    assert {"hybrid/en-train", "hybrid/sw-train"} <= set(inputs) - set(without)


def test_logits_that_collapse_are_seen_under_the_hybrids_scores(adding, tmp_path):
    """What is added to them differs from passage to passage, also where the ranker says nothing."""
    task = adding(first_stage=50.0)
    made = trainings.learner(task, "small", rank.plan(task), tmp_path)
    value, spread = made.dev(lambda inputs: torch.ones(len(inputs["input_ids"])))
    assert (value, spread) == (made.dev.first_stage, 0.0)
    _, spread = made.dev(lambda inputs: torch.arange(len(inputs["input_ids"])).float())
    assert spread > 0


def test_a_start_brings_its_weight_no_further():
    from tiny import body

    started = body()
    trainings.keep_weight(started, 3.0)
    assert getattr(started.config, FIRST_STAGE) == 3.0
    trainings.keep_weight(started, 0.0)
    assert not hasattr(started.config, FIRST_STAGE)


def test_it_is_no_teacher(adding):
    with pytest.raises(InputError) as error:
        rank.plan(adding("taught", first_stage=1.0))
    assert str(error.value) == (
        "ranking: taught: teacher: small adds its logits to the first stage's scores "
        "(small.first_stage), and they teach nothing without them; expected a ranker without "
        "that setting, or a folder with runs of small"
    )
