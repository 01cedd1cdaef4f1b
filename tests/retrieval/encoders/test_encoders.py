"""An encoder as a step: its settings, what it stands on, and what stands on it."""

import json
import re
import typing
from pathlib import Path

import little
import pytest

from core.artefacts import TrainedEncoder
from core.config import load_config, merged
from core.encoders import ENTRY_PARTS, METHODS, Encoder
from core.errors import InputError
from core.files import digest
from core.settings import Config
from core.steps import needed
from core.task import Task
from retrieval import retrievers, search
from retrieval.encoders import encoders
from retrieval.encoders.batches import BATCHES
from retrieval.encoders.in_batch import IN_BATCH
from retrieval.encoders.negatives import NEGATIVES
from retrieval.encoders.pairs import PAIRS


@pytest.fixture
def plan(tmp_path, little_body):
    """A function of encoders' settings, and of others: the task, planned."""
    little.write_collection(tmp_path / "c")

    def make(encoders=None, **more) -> Task:
        chosen = {}
        for name, own in (encoders or {"mine": {}}).items():
            below = {} if "start" in own else {"backbone": str(little_body)}
            chosen[name] = {**below, "precision": "fp32", **own}
        values = {
            "name": "test",
            "work": str(tmp_path / "work"),
            "collection": {"path": str(tmp_path / "c")},
            "retrieval": {
                "sources": ["bm25", "dense"],
                "dense": {"backbone": str(little_body)},
                "encoders": chosen,
            },
        }
        task = Task(Config.model_validate(merged(values, more)))
        search.plan(task)
        return task

    return make


def names(step):
    return [source.name for source in step.inputs]


# ---- Settings


def test_choices_are_those_of_the_tables():
    def literals(field):
        annotation = Encoder.model_fields[field].annotation
        (inner,) = [a for a in typing.get_args(annotation) if typing.get_args(a)] or [annotation]
        return set(typing.get_args(inner))

    assert literals("pairs") == set(PAIRS)
    assert literals("batches") == set(BATCHES)
    assert literals("negatives") == set(NEGATIVES)
    assert literals("in_batch") == set(IN_BATCH)
    assert literals("method") == set(METHODS)
    assert set(ENTRY_PARTS) <= set(Encoder.model_fields)


def test_a_method_lies_under_what_is_set():
    assert Encoder(method="dpr_bm25").negatives == ["from_run"]
    assert Encoder(method="dpr_bm25", negatives=[]).negatives == []
    own = Encoder(method="ict_q", clustered={"every": 3}).clustered
    assert (own.of, own.every) == ("queries", 3), "a part is merged key by key"


def test_every_method_stands_in_the_document():
    text = (Path(__file__).parents[3] / "docs" / "METHODS.md").read_text("utf-8")
    words = set(re.findall(r"[\w.]+", text))
    assert [method for method in METHODS if method not in words] == []


def test_what_decides_the_weights():
    first = Encoder(method="dpr")
    assert digest(first.recipe_settings) == digest(Encoder().recipe_settings), "the row's choices"
    for name, value in {"batch_tokens": 7, "gradient_caching": True, "tensorboard": True}.items():
        assert Encoder(**{name: value}).recipe_settings == first.recipe_settings, name
    for name, value in {"seed": 3, "temperature": 0.1, "dev": {"queries": 3}}.items():
        assert Encoder(**{name: value}).recipe_settings != first.recipe_settings, name
    assert set(ENTRY_PARTS).isdisjoint(first.recipe_settings)
    mined = Encoder(method="dpr_bm25").recipe_settings
    assert {"from_run", "draw"} == set(ENTRY_PARTS) & set(mined)


@pytest.mark.parametrize(
    "own, message",
    [
        ({"queue": {"size": 3}}, r"mine.queue: is set, but queue is not among what this encoder"),
        ({"draw": {"number": 3}}, r"mine.draw: is set, but draw is not among"),
        ({"negatives": ["select"]}, r"begins with select, .*expected one that brings some first"),
        ({"start": "other"}, r"mine.start: found 'other', expected another encoder \(there is n"),
        ({"start": ".", "layers": 3}, r"mine has start=. and layers=3; a start brings its own"),
        ({"start": ".", "backbone": "mbert"}, r"mine has start=. and backbone=mbert"),
        (
            {"method": "dpr_bm25", "from_run": {"system": "hybrid"}},
            r"mine: mines from the runs of 'hybrid', expected one of bm25, dense$",
        ),
        (
            {"negatives": ["from_run", "select"], "select": {"scores": "deep"}},
            r"mine: mines from the runs of 'deep', expected one of bm25, dense$",
        ),
        ({"languages": ["de"]}, r"an encoder is to learn from de, which have no train topics; "),
    ],
)
def test_settings_that_contradict_each_other(plan, own, message):
    with pytest.raises(InputError, match=message):
        plan({"mine": own})


@pytest.mark.parametrize(
    "name, why",
    [
        ("embedded", "a backbone's name"),
        ("hybrid", "another system's name"),
        ("ensemble", "another system's name"),
        ("base", "another system's name"),  # the ranker of a configuration without any
    ],
)
def test_names_that_encoders_cannot_have(plan, name, why):
    with pytest.raises(InputError, match=f"an encoder cannot be named '{name}': that is {why}"):
        plan({name: {}})


def test_a_backbone_that_is_not_there(plan):
    with pytest.raises(InputError) as error:
        plan({"tuned": {}}, retrieval={"dense": {"backbone": "tunde"}})
    assert "retrieval.dense.backbone: unknown backbone 'tunde'" in str(error.value)
    assert "encoders of retrieval.encoders: tuned; did you mean tuned?" in str(error.value)
    with pytest.raises(InputError, match=r"dense.layers: found 2, but its backbone mine is an enc"):
        plan(retrieval={"dense": {"backbone": "mine", "layers": 2}})


def test_rings(plan):
    with pytest.raises(InputError, match="encoders: a needs b needs a; by start, from_run.system"):
        plan({"a": {"start": "b"}, "b": {"start": "a"}})
    mining = {"method": "dpr_bm25", "from_run": {"system": "b"}}
    with pytest.raises(InputError, match="encoders: a needs b needs c needs a; "):
        plan({"a": mining, "b": {"start": "c"}, "c": {"start": "a"}})
    with pytest.raises(InputError, match=r"'dense', .*dense is the encoder mine: name that, or"):
        plan(
            {"mine": {"method": "dpr_bm25", "from_run": {"system": "dense"}}},
            retrieval={"dense": {"backbone": "mine"}},
        )


# ---- Steps


def test_what_an_encoder_stands_on(plan):
    task = plan({"mine": {"method": "dpr_bm25"}})
    step = task.step(TrainedEncoder("mine"))
    assert step.name == "encoder/mine" and step.resumes and "weights" in step.settings
    assert names(step) == [
        "deepspeed",
        "passages/en", "topics/en-train", "qrels/en-train",
        "passages/sw", "topics/sw-train", "qrels/sw-train",
        "topics/en-dev", "qrels/en-dev", "topics/sw-dev", "qrels/sw-dev",
        "negatives/mine",
    ]  # fmt: skip
    mined = step.inputs[-1]
    assert names(mined)[:2] == ["bm25/en-train", "bm25/sw-train"]
    assert mined.settings == {
        "chain": ["from_run"], "from_run": {"system": "bm25", "depth": 100}
    }  # fmt: skip
    assert "negatives/mine" not in names(plan().step(TrainedEncoder("mine")))


def test_the_dense_source_stands_on_an_encoder(plan):
    task = plan(retrieval={"dense": {"backbone": "mine"}})
    steps = search.plan(task)
    order = list(steps)
    assert order.index("encoder/mine") < order.index("vectors/en") < order.index("hybrid/en-dev")
    assert names(steps["vectors/en"]) == ["passages/en", "encoder/mine"]
    assert "weights" not in steps["vectors/en"].settings
    other = plan({"mine": {"seed": 1}}, retrieval={"dense": {"backbone": "mine"}})
    for name in ("vectors/en", "dense/en-dev", "hybrid/en-dev"):
        assert search.plan(other)[name].fingerprint != steps[name].fingerprint, name
    assert search.plan(other)["bm25/en-dev"].fingerprint == steps["bm25/en-dev"].fingerprint


def test_one_encoder_mines_from_another(plan):
    mining = {"method": "dpr_bm25", "from_run": {"system": "first"}}
    task = plan({"second": mining, "first": {}})
    steps = search.plan(task)
    assert names(steps["negatives/second"])[:2] == ["first/en-train", "first/sw-train"]
    assert names(steps["vectors/first/en"]) == ["passages/en", "encoder/first"]
    assert "first/en-dev" not in steps, "only what is mined"
    # the dense source's own runs, where it stands on that encoder
    same = search.plan(
        plan({"second": mining, "first": {}}, retrieval={"dense": {"backbone": "first"}})
    )
    assert names(same["negatives/second"])[:2] == ["dense/en-train", "dense/sw-train"]
    assert "vectors/first/en" not in same


def test_a_chain_starts_where_the_one_before_ended(plan):
    task = plan({"tuned": {"start": "first"}, "first": {"layers": 1}})
    step = task.step(TrainedEncoder("tuned"))
    assert "encoder/first" in names(step) and "weights" not in step.settings
    assert encoders.note_chain(task, "tuned") == "first → tuned"
    assert encoders.origin(task, "tuned").layers == 1
    assert retrievers.encoder_size(task, "tuned").layers == 1


def test_processes_share_what_is_still_to_be_trained(plan, monkeypatch):
    task = plan({"mine": {"batch_size": 8}})
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="mine: batch_size 8 .*; set batch_size to 6 or 9, or"):
        encoders.check_division(task)
    task.step(TrainedEncoder("mine")).path.mkdir(parents=True)
    encoders.check_division(task)


# ---- The body while it is trained


def body_of(**more):
    """A little body as a training prepares it."""
    body = little.body()
    encoders.prepare(body, Encoder(**more), more.pop("precision", "fp32"))
    return body


def test_what_a_body_does_otherwise_while_it_is_trained():
    import torch

    plain = body_of()
    assert plain.config._attn_implementation == "sdpa"
    assert body_of(precision="bf16").config._attn_implementation == "eager", "faster on a CPU"
    assert body_of(attention="eager").config._attn_implementation == "eager"
    assert body_of(attention="sdpa", precision="bf16").config._attn_implementation == "sdpa"
    dropped = body_of(body_dropout=0.2)
    assert {m.p for m in dropped.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    frozen = body_of(freeze_embeddings=True)
    assert not frozen.get_input_embeddings().weight.requires_grad
    assert sum(not p.requires_grad for p in frozen.parameters()) == 1


@pytest.mark.parametrize("caching", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(tmp_path, caching):
    plain_losses, plain = little.gradients(little.learner(little.settings(tmp_path), tmp_path))
    settings = little.settings(tmp_path, gradient_checkpointing=True, gradient_caching=caching)
    learner = little.learner(settings, tmp_path)
    encoders.prepare(learner.model.towers["shared"], settings, "fp32")
    losses, found = little.gradients(learner)
    assert losses == pytest.approx(plain_losses, abs=1e-6)
    for name, gradient in plain.items():
        assert float((found[name] - gradient).abs().max()) < 1e-6, name


def test_how_texts_become_vectors_is_as_it_starts_but_for_what_is_set():
    from retrieval.encoder import Layout

    begun = Layout("mean", True, {"query": "query: ", "passage": "passage: "})
    assert encoders.layout_of(Encoder(), begun) == begun
    own = Encoder(pooling="cls", similarity="dot", query_prefix="", passage_prefix="p: ")
    expected = Layout("cls", False, {"query": "", "passage": "p: "})
    assert encoders.layout_of(own, begun) == expected
    assert encoders.layout_of(Encoder(similarity="cosine"), expected).normalise


# ---- Whole trainings


CONFIGURATION = """
collection: {{path: {folder}/{collection}}}
work: {folder}/work
retrieval:
  sources: [run, dense]
  run: {folder}/runs-{collection}
  dense: {{backbone: {backbone}, max_length: 24}}
  hybrid: {{weights: equal}}
  encoders: {encoders}
"""
SHORT = {
    "steps": 4, "batch_size": 4, "evaluate_every": 2, "query_length": 12, "passage_length": 24,
    "learning_rate": 1e-3, "precision": "fp32", "dev": {"queries": 2, "passages": 12},
}  # fmt: skip


def write(folder, collection, name, backbone, encoders, languages=("en", "sw")):
    """A collection with empty runs of a given source, and a configuration of it."""
    if not (folder / collection).exists():
        little.write_collection(folder / collection, languages=languages)
        (folder / f"runs-{collection}").mkdir()
        for language in languages:
            for split in ("train", "dev"):
                lines = []
                for number in range(12) if split == "train" else range(12, 16):
                    lines.append(f"{number} Q0 p{number}#1 1 3.0 x")
                    lines.append(f"{number} Q0 p{number}#0 2 2.0 x")
                file = folder / f"runs-{collection}" / f"{language}-{split}.trec"
                file.write_text("\n".join(lines) + "\n")
    path = folder / f"{name}.yaml"
    path.write_text(
        CONFIGURATION.format(
            folder=folder, collection=collection, backbone=backbone, encoders=json.dumps(encoders)
        )
    )
    return path


@pytest.fixture(scope="module")
def chained(tmp_path_factory, little_body):
    """Trained on one collection, then on another, and searched with: (configuration, output)."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("chained")
    write(folder, "english", "english", little_body, {}, languages=("en",))
    own = {**SHORT, "method": "dpr_bm25", "from_run": {"system": "run"}}
    first = {**own, "backbone": str(little_body), "data": str(folder / "english.yaml")}
    tuned = {**own, "start": "first", "batches": "by_language", "towers": "separate"}
    path = write(folder, "both", "both", "tuned", {"tuned": tuned, "first": first})
    config = load_config(path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        search.run(config)
    return config, said.getvalue()


def test_the_stage_trains_and_searches(chained):
    from sentence_transformers import SentenceTransformer

    config, said = chained
    task = Task(config)
    steps = search.plan(task)
    assert all(step.done for step in steps.values())
    assert "first: 4 steps in" in said and "tuned: 4 steps in" in said
    states = {}
    for name in ("first", "tuned"):
        folder = task.step(TrainedEncoder(name)).path
        states[name] = json.loads((folder / "training.json").read_text())
        assert len((folder / "training.jsonl").read_text().splitlines()) == 4
        assert len((folder / "dev.jsonl").read_text().splitlines()) == 3, "base, and two steps"
    vectors = retrievers.vectors_of(steps["vectors/sw"])
    model = task.step(TrainedEncoder("tuned")).path / "model"
    opened = SentenceTransformer(str(model), device="cpu")
    text = task.passages("sw").text("p3#1")
    row = int(task.passages("sw").rows(["p3#1"])[0])
    assert vectors[row] == pytest.approx(opened.encode_document([text])[0], abs=2e-3)
    assert (model / "router_config.json").exists(), "two bodies"
    assert len(task.run("dense", "sw", "dev")["12"]) == 48, "all passages"


def test_what_belongs_to_another_collection_lies_there(chained):
    config, said = chained
    task = Task(config)
    search.plan(task)
    first = task.step(TrainedEncoder("first"))
    others = {step.root.name for step in needed([first])}
    assert others == {"english", "both"} and first.root.name == "both"
    assert "passages/en" in names(first)
    notes = json.loads((config.home.parent / "english" / "english" / "recipes.json").read_text())
    assert set(notes) == {"passages/en", "run/en-train"}, "what first needs, and no more"
    mined = next(source for source in first.inputs if source.name == "negatives/first")
    counts = json.loads((mined.path / "1-from_run" / "counts.json").read_text())
    assert counts == {"en": {"": 12, "relevant": 12, "queries": 12, "empty": 0}}


def test_nothing_is_made_again(chained, capsys):
    config, _ = chained
    search.run(config)
    assert "[retrieval]" not in capsys.readouterr().out


def test_the_command_compares_base_tuned_and_bm25(chained, capsys):
    from retrieval.encoders.__main__ import run

    config, _ = chained
    run(config)
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if "first → tuned" in line]
    task = Task(config)
    search.plan(task)
    folder = task.step(TrainedEncoder("tuned")).path
    best_step = json.loads((folder / "training.json").read_text())["best_step"]
    lines = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    expected = []
    for metric in ("MRR@100", "Recall@100"):
        for step in (0, best_step):
            (line,) = [line for line in lines if line["step"] == step]
            expected.append(f"{line[metric]:.4f}")
        expected.append("-")  # BM25 is no source here
    assert row.split()[3:] == [*expected, str(best_step)]


def test_texts_longer_than_the_body_takes(tmp_path, little_body):
    path = write(tmp_path, "c", "c", little_body, {"mine": {**SHORT, "backbone": str(little_body),
                                                           "passage_length": 50}})  # fmt: skip
    with pytest.raises(
        InputError, match="mine.passage_length: found 50, expected at most 40, the most that the"
    ):
        search.run(load_config(path))


def test_nothing_to_train(tmp_path, little_body):
    from retrieval.encoders.__main__ import run

    path = write(tmp_path, "c", "c", little_body, {})
    with pytest.raises(InputError, match="c: retrieval.encoders is empty, so there is no encoder"):
        run(load_config(path))
