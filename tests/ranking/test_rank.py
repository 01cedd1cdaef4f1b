"""The stage as a whole on a small collection: chains, cascades, teachers, back ends.

And what is said where their settings make no sense.
"""

import json
import math
import shutil

import pytest

from core.artefacts import TrainingGroups
from core.config import load_config
from core.distributed import generator
from core.errors import InputError
from core.groups import read_groups
from core.runs import ranked
from core.settings import Config, Ranker
from core.task import Task
from ranking import gates, rank, rankers, teachers, trainings


@pytest.fixture
def make(config):
    """A task with these trainings; nothing is made."""

    def made(rerank=None, chain=None, **named):
        found = {n: Ranker(**settings) for n, settings in named.items()}
        return Task(
            config(
                ranking={
                    "rankers": found,
                    "chain": {n: Ranker(**s) for n, s in (chain or {}).items()},
                    "rerank": rerank or {},
                }
            )
        )

    return made


def test_a_chain_learns_each_step_from_the_one_before(trained):
    task, said = trained
    steps = rank.plan(task)
    assert "pre → large: dev nDCG@10" in said
    assert list(steps)[:3] == ["vocabulary/embedded", "ranker/pre", "ranker/large"]
    assert steps["ranker/large"].recipe["inputs"]["ranker/pre"] == steps["ranker/pre"].fingerprint
    assert not any(name.startswith("pre/") for name in steps), "a step of the chain scores nothing"
    body, _ = trainings.body_of(task, "large", steps)
    from safetensors.torch import load_file

    before = load_file(steps["ranker/pre"].path / "model" / "model.safetensors")
    assert all(value.equal(before[name]) for name, value in body.state_dict().items())


def test_a_chain_has_its_own_collection(trained):
    task, _ = trained
    source = rankers.task_of(task, task.config.ranking.chain["pre"])
    assert source.languages == ["sw"] and source is not task
    assert set(rank.plan(task)["ranker/pre"].recipe["inputs"]) >= {
        "groups/plain",
        "hybrid/sw-dev",
        "vocabulary/embedded",
    }
    assert "hybrid/en-dev" not in rank.plan(task)["ranker/pre"].recipe["inputs"]
    assert "hybrid/en-dev" in rank.plan(task)["ranker/small"].recipe["inputs"]


def test_a_cascade_scores_the_best_of_the_ranker_before(trained):
    task, said = trained
    steps = rank.plan(task)
    small, large = (task.run(name, "en", "testA") for name in ("small", "large"))
    for qid, scores in large.items():
        best = {d for d, _ in ranked(small[qid])[:2]}
        assert {d for d, _ in ranked(scores)[:2]} == best, "its own block is on top"
        assert [d for d, _ in ranked(scores)[2:]] == [d for d, _ in ranked(small[qid])[2:]], (
            "the rest follows in the order of the one before"
        )
    note = json.loads((steps["cascade/large"].path / "cascade.json").read_text())
    assert (note["after"], note["depth"], note["block"], note["queries"]) == ("small", 2, 4, 2)
    line = (
        f"large, 2 best of small instead of 4: nDCG@10 {note['own']:.4f} on 2 dev queries, "
        f"{note['own'] - note['whole']:+.4f}"
    )
    assert line in said


def test_the_members_of_an_ensemble_have_no_scores_below_their_depth(trained):
    from ensemble import members

    rank.plan(trained[0])
    blocks = members.blocks(trained[0], "en", "testA")
    assert {len(scores) for scores in blocks["large"].values()} == {2} and {
        len(scores) for scores in blocks["small"].values()
    } == {4}


def test_a_teachers_scores(trained):
    task, _ = trained
    steps = rank.plan(task)
    assert "ranker/small" in steps["ranker/taught"].recipe["inputs"]
    from core.records import TrainingPair

    pair = TrainingPair("en", "1", "a#0", 1.0, "judged", 0, "", "")
    from tiny import data_of

    other = pair._replace(docid="b#0", label=0.0, language="sw", passage_language="en")
    data = data_of([[pair, other], [pair._replace(label=0.5)]], per_step=1, languages=["en"])
    both = teachers.scores(task, "taught", steps, data, trainings.PairTexts(task))
    found = float(both[0][0])
    assert both[1][0] == both[0][0] and math.isnan(both[0][1]), "a row of another language has none"
    scorer = rankers.load(task, "small", steps["ranker/small"])
    assert found == pytest.approx(
        float(scorer(*rankers.texts_of(task, "en", "train")([("1", "a#0")]))[0]), abs=1e-5
    )


def test_a_deeper_run_scores_the_new_pairs_alone(trained, monkeypatch):
    from ranking import rerank

    task, _ = trained
    counted = []
    batches = rerank.Scorer.batches
    monkeypatch.setattr(
        rerank.Scorer,
        "batches",
        lambda self, queries, passages: (
            counted.append(len(queries)),
            batches(self, queries, passages),
        )[1],
    )
    deeper = task.config.model_copy(
        update={
            "name": "deeper",
            "ranking": task.config.ranking.model_copy(
                update={
                    "rankers": {"small": task.config.ranking.rankers["small"]},
                    "rerank": task.config.ranking.rerank.model_copy(update={"depth": 5}),
                }
            ),
        }
    )
    rank.run(deeper)
    assert counted == [1, 1], "en has five passages, of which four were scored for dev and testA"


def test_scores_are_kept_as_long_as_their_ranker(trained):
    from core.store import kept_beside, outputs

    task, _ = trained
    found = dict(outputs(task.config.home.parent))
    store = kept_beside(rank.plan(task)["ranker/small"].path)
    assert store.is_dir() and found[store] is True


def test_the_closing_table_and_the_first_stage(trained):
    state = json.loads((rank.plan(trained[0])["ranker/small"].path / "training.json").read_text())
    assert 0 <= state["base"] <= 1 and 0 <= state["first_stage"] <= 1
    assert (
        f"small, dev nDCG@10:  first stage {state['first_stage']:.4f}   base {state['base']:.4f}"
        in trained[1]
    )


def test_int8_within_its_tolerance_and_beyond(trained):
    task, _ = trained

    def with_int8(tolerance):
        return Task(
            task.config.model_copy(
                update={
                    "name": f"int8-{tolerance}",
                    "ranking": task.config.ranking.model_copy(
                        update={
                            "rankers": {"small": task.config.ranking.rankers["small"]},
                            "rerank": task.config.ranking.rerank.model_copy(
                                update={"backend": "int8", "tolerance": tolerance}
                            ),
                        }
                    ),
                }
            )
        )

    found = with_int8(1.0)
    rank.run(found.config)
    note = json.loads((rank.plan(found)["int8/small"].path / "int8.json").read_text())
    assert note["queries"] == 2 and -1 <= note["kendall_tau"] <= 1
    exact, rough = (
        rankers.load(found, "small", rank.plan(found)["ranker/small"], *way)
        for way in (("torch",), ("int8", rank.plan(found)["int8/small"].path))
    )
    texts = ["capital of Kenya", "tea"], ["Nairobi is the capital", "Tea grows in Kenya."]
    assert (
        rough(*texts) == pytest.approx(exact(*texts), abs=0.3) and rough.identity != exact.identity
    )
    import ranking.gates

    note = {"whole": 0.9, "own": 0.88, "queries": 2, "kendall_tau": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking.gates, "agreement", lambda *_: note)
        with pytest.raises(
            InputError,
            match=r"small in int8: nDCG@10 0.8800 against 0.9000 in fp32 on 2 "
            "dev queries.*differs by more than ranking.rerank.tolerance=0.01; "
            "set ranking.rerank.backend=openvino",
        ):
            rank.run(with_int8(0.01).config)


def test_the_pairs_that_int8_is_calibrated_on(trained, monkeypatch):
    """As when the whole draw was made Python objects: a permutation of its rows by the seed."""
    monkeypatch.setattr(gates, "CALIBRATION", 3)
    task, _ = trained
    ranker = task.config.ranking.rankers["small"]
    groups = read_groups(task.step(TrainingGroups("default")).path / "draw-0.parquet")
    rows = generator(ranker.seed, 0, "int8").permutation(len(groups))[:3]
    texts = [trainings.PairTexts(task)(groups[row]) for row in rows]
    queries, passages = gates.calibration_texts(task, ranker, None)
    assert list(zip(queries, passages, strict=True)) == texts and len(set(texts)) == 3


@pytest.mark.parametrize(
    "named, message",
    [
        (
            {"a": {"start": "b"}, "b": {"start": "a"}},
            "b starts from a starts from b; a chain has a beginning",
        ),
        (
            {"a": {"start": "none"}},
            "a starts from 'none', expected one of b, embedded-ranker, or a folder with a cross-",
        ),
        (
            {"a": {"start": "b", "backbone": "rembert"}},
            "a has start=b and backbone=rembert; a start brings its own backbone",
        ),
        (
            {"a": {"loss": "margin_mse"}},
            "a: loss=margin_mse needs a teacher: a ranker, a system of the first stage such as "
            "hybrid, or a folder of runs",
        ),
        (
            {"a": {"teacher": "b"}},
            "a: loss=binary_cross_entropy has no use for teacher=b; "
            "margin_mse and kl_divergence have",
        ),
        ({"a": {"after": "c"}}, "a: after: found 'c', expected one of b"),
        (
            {"a": {"after": "b"}, "b": {"after": "a"}},
            "b, a come after each other in a ring; the first ranker of a cascade has no 'after'",
        ),
        (
            {"a": {"loss": "listwise_softmax", "batch_size": 12}},
            "a: batch_size 12 is not a multiple of group_size 8, "
            "and loss=listwise_softmax sees whole groups",
        ),
        (
            {"a": {"depth": 500}},
            "a: depth 500 is below the block that the ensemble fuses; "
            "raise ranking.rerank.depth, now 200",
        ),
        (
            {"a": {"query_length": 64, "max_length": 64}},
            "a: query_length 64 and the special pieces leave no room for a passage in max_length "
            "64; lower query_length or raise max_length",
        ),
        ({"bm25": {}}, "a ranker cannot be named 'bm25', that is another system's name"),
        ({"stacking": {}}, "a ranker cannot be named 'stacking', that is another system's name"),
    ],
)
def test_settings_that_make_no_sense(make, named, message):
    with pytest.raises(InputError) as error:
        rank.plan(make(**({"b": {}} | named)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "candidates, rerank, depth",
    [(200, {}, 200), (50, {}, 50), (500, {}, 200), (50, {"depth": 50}, 50)],
)
def test_the_depth_that_is_reranked(config, candidates, rerank, depth):
    task = Task(config(candidates=candidates, ranking={"rerank": rerank}))
    assert rankers.depth(task) == depth
    assert rank.plan(task)["base/en-testA"].recipe["settings"]["depth"] == depth


def test_a_depth_below_the_candidates(config, folder, tmp_path):
    """It became 100 in silence."""
    message = (
        r"ranking.rerank.depth: found 200, but the rankers are handed candidates=100 passages a "
        "query; raise candidates, lower ranking.rerank.depth, or set it to null"
    )
    with pytest.raises(InputError, match=message):
        rank.plan(Task(config(candidates=100, ranking={"rerank": {"depth": 200}})))
    (tmp_path / "one.yaml").write_text(
        f"collection: {{path: {folder}}}\nranking: {{rerank: {{depth: 200}}}}\n"
    )
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "one.yaml", ["candidates=100"])
    follows = load_config(tmp_path / "one.yaml", ["candidates=100", "ranking.rerank.depth=null"])
    assert follows.block == 100


@pytest.mark.parametrize(
    "backend, precision, training, run",
    [
        ("torch", "fp32", 1, 1),
        ("torch", "bf16", 2, 2),
        ("openvino", "fp32", 1, 1),
        ("openvino", "bf16", 2, 3),
        ("int8", "fp32", 1, 1),
    ],
)
def test_what_was_made_in_bf16_before_is_made_again(make, backend, precision, training, run):
    steps = rank.plan(make(rerank={"backend": backend}, one={"precision": precision}))
    assert steps["ranker/one"].version == training
    assert steps["one/en-dev"].version == run


def test_a_recipe_that_the_other_collection_lacks(make, tmp_path, folder):
    (tmp_path / "other.yaml").write_text(f"collection: {{path: {folder}}}\n")
    with pytest.raises(
        InputError,
        match="other.yaml: data_aug has no recipe 'ns5', which a ranker asks for; it has default",
    ):
        rank.plan(make(a={"data": str(tmp_path / "other.yaml"), "recipe": "ns5"}))


def test_a_passage_of_nothing_and_a_query_of_ten_thousand_words(trained):
    task, _ = trained
    scorer = rankers.load(task, "small", rank.plan(task)["ranker/small"])
    found = scorer(["tea " * 10000, "tea", ""], ["", "tea " * 10000, ""])
    assert found.shape == (3,) and (found == found).all()


def test_every_configuration_of_the_project_makes_sense():
    from pathlib import Path

    root = Path(__file__).parents[2] / "configs"
    for path in sorted(root.glob("*.yaml")):
        config = load_config(path)
        task = type("Task", (), {"config": config})
        for name in config.ranking.trainings:
            rankers.check(task, name)
    assert isinstance(config, Config) and len(list(root.glob("*.yaml"))) >= 6


def test_a_checkpoint_of_another_architecture(tmp_path):
    from core import backbones

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        backbones.load_cross_encoder(str(tmp_path))


def test_a_model_that_is_cut_off(trained, tmp_path):
    task, _ = trained
    step = rank.plan(task)["ranker/small"]
    shutil.copytree(step.path / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    from ranking import Reranker

    with pytest.raises(InputError, match="backbone .*model: cannot be loaded"):
        Reranker(tmp_path / "model")
