"""Teachers that are no rankers: runs of the first stage or of a folder, and what is refused."""

import math

import pytest
from tiny import data_of

from core.artefacts import RankedRun
from core.errors import InputError
from core.records import TrainingPair
from core.runs import read_run
from core.settings import Ranker
from core.task import Task
from ranking import rank, run_scores, teachers, trainings
from training.loop import Loop

RUNS = {
    "en-train": {"1": {"a#0": 0.9, "b#0": 0.5, "a#1": 0.25}, "2": {"c#0": 0.75, "d#0": 0.125}},
    "sw-train": {"1": {"a#0": 3.0, "c#0": -1.0}},
}


@pytest.fixture
def runs(tmp_path):
    """A function that writes runs as a folder of LANG-SPLIT.trec."""

    def write(**changed):
        folder = tmp_path / "runs"
        folder.mkdir(exist_ok=True)
        for name, run in (RUNS | changed).items():
            lines = []
            for qid, scores in run.items():
                lines += [f"{qid} Q0 {docid} 1 {score} x\n" for docid, score in scores.items()]
            (folder / f"{name}.trec").write_text("".join(lines))
        return folder

    return write


@pytest.fixture
def make(config):
    """A task whose ranker ``a`` has a teacher, beside a ranker ``b``."""

    def made(teacher, data_aug=None, **settings):
        pupil = {"loss": "margin_mse", "teacher": str(teacher), **settings}
        rankers = {"a": Ranker(**pupil), "b": Ranker()}
        more = {"data_aug": data_aug} if data_aug else {}
        return Task(config(ranking={"rankers": rankers}, **more))

    return made


def pair(language, qid, docid, label=0.0, passage_language=""):
    return TrainingPair(
        language, qid, docid, label, "judged", 0, "", "", passage_language=passage_language
    )


PAIRS = [
    pair("en", "1", "a#0", 1.0),
    pair("en", "1", "c#0"),  # the run has it not
    pair("en", "1", "b#0"),
    pair("en", "2", "d#0"),
    pair("en", "2", "c#0", 1.0),
    pair("en", "2", "a#0", passage_language="sw"),  # no run has it
    pair("sw", "1", "c#0"),
    pair("sw", "1", "a#0", 1.0),
]
SCORES = [0.9, 0.25, 0.5, 0.125, 0.75, 0.125, -1.0, 3.0]


def taught_by(task, draws=(PAIRS,), **more):
    rank.plan(task)
    return teachers.scores(task, "a", {}, data_of(draws, per_step=1, **more), text_of=None)


def test_scores_of_a_folder_of_runs(make, runs, capsys):
    """By row, in every draw; what is not in a run has its query's lowest score, and is counted."""
    first, second = taught_by(make(runs()), [PAIRS, PAIRS[::-1]])
    assert first.tolist() == pytest.approx(SCORES) and first.dtype == "float32"
    assert second.tolist() == first.tolist()[::-1]
    assert (
        "runs teaches a by its runs: 8 pairs; 2 of them (25.0%) are not in the runs and have their "
        "query's lowest score there"
    ) in capsys.readouterr().out


def test_scores_are_scaled(make, runs):
    (found,) = taught_by(make(runs(), teacher_scale=10))
    assert found.tolist() == pytest.approx([10 * score for score in SCORES])


def test_rows_of_other_languages_have_none(make, runs):
    (found,) = taught_by(make(runs(), languages=["sw"]), languages=["sw"])
    assert found[6:].tolist() == [-1.0, 3.0]
    assert all(map(math.isnan, found[:6]))


def test_a_query_that_the_pairs_have_not_is_passed_over(make, runs):
    pairs = [one for one in PAIRS if (one.language, one.qid) != ("en", "2")]
    (found,) = taught_by(make(runs()), [pairs])
    assert found.tolist() == pytest.approx(SCORES[:3] + SCORES[6:])


def test_the_runs_are_inputs_of_the_training(make, runs):
    """A changed file is another training, and so is another system of the first stage."""

    def step(teacher):
        return rank.plan(make(teacher))["ranker/a"]

    before = step(runs())
    assert {"teacher/en-train", "teacher/sw-train"} <= set(before.recipe["inputs"])
    after = step(runs(**{"sw-train": {"1": {"a#0": 2.0}}}))
    changed = {
        name
        for name, fingerprint in after.recipe["inputs"].items()
        if before.recipe["inputs"][name] != fingerprint
    }
    assert changed == {"teacher/sw-train"}
    hybrid, bm25 = step("hybrid"), step("bm25")
    assert {"hybrid/en-train", "hybrid/sw-train"} <= set(hybrid.recipe["inputs"])
    assert {"bm25/en-train", "bm25/sw-train"} <= set(bm25.recipe["inputs"])
    assert "hybrid/en-train" not in bm25.recipe["inputs"], "only the teacher's"


def test_unlabelled_queries_are_taught_too(make):
    """Q2Q2D makes pairs of dev queries, whose runs a teacher needs, also of surprise languages."""
    task = make("hybrid", {"more": {"q2q2d": {"split": "dev"}}}, recipe="more")
    pupil = task.config.ranking.rankers["a"]
    train = [("en", "train"), ("sw", "train")]
    assert run_scores.Runs(task, pupil, "hybrid", "teacher").splits() == [
        *train,
        ("de", "dev"),
        ("en", "dev"),
        ("sw", "dev"),
    ]
    only = pupil.model_copy(update={"languages": ["sw"]})
    assert run_scores.Runs(task, only, "hybrid", "teacher").splits() == [
        ("sw", "train"),
        ("sw", "dev"),
    ]


def test_the_hybrid_teaches(trained, tmp_path, capsys):
    """From its settings to a step of training, with the runs that retrieval made of train."""
    task, _ = trained
    ranking = task.config.ranking
    changes = {"teacher": "hybrid", "loss": "margin_mse", "teacher_scale": 4.0}
    pupil = ranking.rankers["taught"].model_copy(update=changes)
    rankers = {**ranking.rankers, "taught": pupil}
    ranking = ranking.model_copy(update={"rankers": rankers})
    changed = Task(task.config.model_copy(update={"ranking": ranking}))
    learner = trainings.learner(changed, "taught", rank.plan(changed), tmp_path)
    (draw,) = learner.data.draws
    rows = range(len(draw))
    for row, found in zip(draw.pairs(rows), learner.teacher[0].tolist(), strict=True):
        step = changed.step(RankedRun("hybrid", row.language, "train"))
        run = read_run(step.path / "run.trec")[row.qid]
        assert found == pytest.approx(4 * run.get(row.docid, min(run.values())))
    assert f"hybrid teaches taught by its runs: {len(draw)} pairs" in capsys.readouterr().out
    loop = Loop(learner, pupil, tmp_path)
    assert loop.step(0)["clean"] > 0
    loop.engine.destroy()


# ---- What is refused


def refused(task):
    with pytest.raises(InputError) as error:
        rank.plan(task)
    return str(error.value)


def test_a_folder_that_lacks_a_language(make, runs):
    folder = runs()
    (folder / "sw-train.trec").unlink()
    assert refused(make(folder)) == (
        f"ranking: a: teacher: {folder}: found en-train.trec, expected a run of all that a learns "
        "from: sw-train.trec is missing; add what is missing, or name the languages that are "
        "there in a.languages"
    )
    rank.plan(make(folder, languages=["en"]))  # that helps
    (folder / "en-train.trec").unlink()
    assert (
        f"{folder}: found no .trec file, expected a run of all that a learns from: "
        "en-train.trec, sw-train.trec are missing"
    ) in refused(make(folder))


@pytest.mark.parametrize(
    "teacher, message",
    [
        (
            "hybird",
            "ranking: a: teacher: found 'hybird', expected another ranker (b), a system of the "
            "first stage (bm25, dense, hybrid) or a folder of runs, LANG-SPLIT.trec; "
            "did you mean hybrid?",
        ),
        (
            "somewhere/else",
            "expected another ranker (b), a system of the first stage (bm25, dense, hybrid) or a "
            "folder of runs, LANG-SPLIT.trec.",
        ),
        ("a", "ranking: a: teacher: found 'a', expected another ranker (b), a system"),
    ],
)
def test_an_unknown_teacher(make, teacher, message):
    assert message in refused(make(teacher))


def test_rankers_that_teach_each_other(config):
    """It was a RecursionError."""
    taught = {"loss": "margin_mse"}
    rankers = {"a": Ranker(teacher="b", **taught), "b": Ranker(start="c"), "c": Ranker()}
    rank.plan(Task(config(ranking={"rankers": rankers})))  # no ring
    rankers["c"] = Ranker(teacher="a", **taught)
    assert refused(Task(config(ranking={"rankers": rankers}))) == (
        "ranking: a is made of c, and c of a, by start and teacher; a chain has a beginning"
    )


def test_a_scale_without_a_teacher(config):
    rankers = {"a": Ranker(teacher_scale=2.0)}
    assert refused(Task(config(ranking={"rankers": rankers}))) == (
        "ranking: a: teacher_scale=2.0 is of no effect without a teacher; "
        "set one, or take the setting away"
    )


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"en-train": {"1": RUNS["en-train"]["1"]}},
            "the runs of en lack 1 queries of the training pairs, first 2; expected a ranking of",
        ),
        ({"sw-train": {}}, "the runs of sw lack 1 queries of the training pairs, first 1;"),
        (
            {"sw-train": {"1": {"en:a#0": 1.0}}},
            "the runs of sw have none of the passages that a learns from; are they runs of this",
        ),
        (
            {"sw-train": {"1": {"a#0": 1.0}, "7": {"a#0": 1.0}}},
            "sw-train.trec: query 7 is no topic of sw-train; is it a run of this collection, "
            "language and split?",
        ),
        ({"sw-train": {"1": {"a#0": math.nan}}}, "sw-train.trec, line 1: found score 'nan'"),
    ],
)
def test_runs_that_do_not_fit(make, runs, changed, message):
    with pytest.raises(InputError) as error:
        taught_by(make(runs(**changed)))
    assert message in str(error.value)
