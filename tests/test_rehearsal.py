"""configs/miracl.yaml and its sister as they are, against the world in miniature; and in small."""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from core import rehearsal
from core.collection import Collection
from core.config import load_config
from core.errors import InputError
from core.sources import miniature, miracl
from ensemble.plan import planned
from tests import world
from tests.core import hub

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "python -m core.sources.miracl data/miracl",
    "python -m core.sources.irds data/msmarco --known msmarco",
    "python -m core.sources.irds data/mr-tydi --known mr-tydi",
)
"""Those that the configurations' heads name."""


class Checkout:
    """The repository, by links, with data and work of its own, and the hub that it asks."""

    def __init__(self, root: Path, server):
        self.root, self.server = root, server
        launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PROCESSES")
        self.environment = hub.environment(
            server,
            root / "hf",
            IR_DATASETS_HOME=str(root / "irds"),
            HF_TOKEN="token",
            PATH=f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        )
        for name in launcher:
            self.environment.pop(name, None)

    def run(self, command: str, ok: bool = True, **more: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout if ok else done.stdout + done.stderr

    @property
    def home(self) -> Path:
        return self.root / "work" / "rehearsal" / "miracl"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("data", "work", ".git"):
            (root / path.name).symlink_to(path)
    away = tmp_path_factory.mktemp("world")
    world.write_irds(root / "irds")
    server = hub.serve(world.write_models(away / "models"), world.write_miracl(away / "data"))
    yield Checkout(root, server)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def known(checkout):
    """What the rehearsal of configs/miracl.yaml says, with its data fetched as its head says."""
    heads = [(ROOT / "configs" / f"{name}.yaml").read_text() for name in ("miracl", "msmarco")]
    heads.append((ROOT / "configs" / "mr-tydi.yaml").read_text())
    for command, head in zip(COMMANDS, heads, strict=True):
        assert command in head
        checkout.run(f"{command} --allow counts" if "miracl" in command else command)
    return checkout.run("./run_all.sh configs/miracl.yaml --rehearse")


def submitted(checkout, name):
    """The names in a submission, and its manifest; it is checked once more."""
    path = checkout.home / name / "submission.zip"
    check = f"python -m ensemble.submit work/rehearsal/configs/{name}.yaml --check {path}"
    assert checkout.run(check).endswith("valid\n")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist()), json.loads(archive.read("manifest.json"))


def test_the_known_languages(known, checkout):
    assert "rehearsal of configs/miracl.yaml: went through" in known
    assert "2 rounds, 8 trainings in them" in known
    assert "data/miracl: 18 languages, cut from the files" in known
    assert "instead of" not in known, "all bodies are the hub's own"
    names, manifest = submitted(checkout, "miracl")
    counts = miracl.counts()
    expected = {f"known/{la}-testA.trec" for la in counts if "testA queries" in counts[la]}
    assert names == expected | {"manifest.json"}
    assert set(manifest["checkpoints"]) == {"infoxlm", "rembert", "mdeberta"}
    assert manifest["hub"] == dict.fromkeys(manifest["hub"], hub.COMMIT)
    assert set(manifest["hub"]) == {
        "mdpr",
        "mdeberta",
        "rembert",
        "infoxlm-large",
        "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
    }
    transductive = json.loads((checkout.home / "miracl" / "transductive.json").read_text())
    assert {"rembert", "mdeberta"} <= set(transductive["systems"])
    for repository in checkout.server.models:
        assert any(path.startswith(f"/{repository}/resolve/") for path in checkout.server.asked)


def test_only_sizes_are_overridden(known, checkout):
    """Steps, batches and depths are lower; whatever else differs says where things are."""
    whole = load_config(ROOT / "configs" / "miracl.yaml")
    small_file = checkout.root / "work" / "rehearsal" / "configs" / "miracl.yaml"
    small = load_config(small_file)
    places = {"work", "collection.path", "retrieval.bm25.heap"}
    changed = dict(differences(whole.model_dump(), small.model_dump()))
    for key in list(changed):
        if key in places or key.endswith(".data"):
            del changed[key]
    assert all(0 < after < before for before, after in changed.values()), changed
    names = {key.rsplit(".", 1)[1] for key in changed if "." in key}
    sizes = {"steps", "batch_size", "evaluate_every", "dev_queries", "dev_depth", "depth"}
    assert names == sizes | {"batch_tokens", "trees"}


def differences(before, after, path=()):
    """(key, (before, after)) of what differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from differences(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield ".".join(path), (before, after)


def test_the_surprise_languages(known, checkout):
    """InfoXLM is found again; the others learn from unlabelled queries of test-B."""
    said = checkout.run("./run_all.sh configs/miracl_surprise.yaml --rehearse")
    assert "went through" in said and "[ranking] ranker/infoxlm:" not in said
    assert "[ranking] ranker/mdeberta:" in said
    names, manifest = submitted(checkout, "miracl_surprise")
    assert {"surprise/de-testB.trec", "surprise/yo-testB.trec"} < names
    expected = {la for la, known in miracl.counts().items() if "testB queries" in known}
    assert {Path(name).name.split("-")[0] for name in names - {"manifest.json"}} == expected
    assert manifest["split"] == "testB"


def test_two_processes_at_zero_1(known, checkout):
    """InfoXLM's last training once more, on a shard of the optimiser's states each."""
    said = checkout.run(
        "ranking/run.sh work/rehearsal/configs/miracl.yaml name=two round=0 "
        "ranking.rankers.infoxlm.seed=7",
        PROCESSES="2",
    )
    assert "infoxlm: step 4 of 4" in said
    zero = json.loads((ROOT / "configs" / "deepspeed" / "zero1.json").read_text())
    assert zero == {"zero_optimization": {"stage": 1}}


def test_a_typo_in_the_last_round_is_found_before_the_first(known, checkout):
    said = checkout.run(
        "./run_all.sh configs/miracl.yaml ranking.rankers.mdeberta.backbone=them/typo "
        "ranking.rankers.mdeberta.start=null --rehearse",
        ok=False,
    )
    assert "error: model them/typo: the hub answers 404: there is none of this name" in said
    assert "Traceback" not in said and "[retrieval]" not in said


# ---- In small, and without a hub


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A folder to work in, the same for all, so that the embedded collection is made once."""
    return tmp_path_factory.mktemp("offline") / "work"


def test_what_is_not_at_hand_is_made_and_said(offline):
    """Its name tells which languages and splits it has."""
    one = rehearsal.Rehearsal("configs/miracl_surprise.yaml", [f"work={offline}"])
    part = one.miniature_of(one.config)
    assert "data/miracl: not at hand; 18 languages were made for it" in one.notes["collections"][0]
    collection = Collection(part["path"])
    assert collection.all_languages == sorted(miracl.counts())
    assert collection.surprise("yo") and collection.has("yo", "testB")
    assert not collection.has("yo", "testA")
    assert len(collection.queries("sw", "train")) == miniature.QUERIES
    for language, split in collection.qrels:
        docids = {document.docid for document in collection.documents(language)}
        for gains in collection_qrels(collection, language, split).values():
            assert gains.keys() <= docids and any(gains.values())


def collection_qrels(collection, language, split):
    from core.collection import read_qrels

    return read_qrels(collection.qrels_file(language, split))


WHOLE = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "encoders").glob("*.yaml")]


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT)) for path in WHOLE))
def test_any_configuration_can_be_made_small(name, offline):
    """The small one is whole and planned; it stays below its own folder, and nothing is raised."""
    one = rehearsal.Rehearsal(name, [f"work={offline}"])
    one.prepare()
    small = load_config(one.small_path)
    assert small.home.is_relative_to(offline / "rehearsal") and small.name == one.config.name
    for training in [*small.ranking.trained.values(), *small.retrieval.encoders.values()]:
        assert training.steps <= rehearsal.STEPS
    (own, *_) = [part for part in planned(small) if part.config.name == small.name]
    assert own.plans["ranking"]


def test_judgments_that_stand_on_other_passages(folder, tmp_path, monkeypatch):
    """d#0 is behind the first four passages of en: its judgments move to the next free ones."""
    monkeypatch.setattr(miniature, "READ", 4)
    source = Collection(folder)
    moved = miniature.cut(source, "en", tmp_path / "out", 30, {"train": "train", "dev": "dev"})
    cut = Collection(tmp_path / "out")
    assert [document.docid for document in cut.documents("en")] == ["a#0", "a#1", "b#0", "c#0"]
    train, dev = (cut.judgments("en", split) for split in ("train", "dev"))
    assert train == {"1": {"a#0": 1, "b#0": 0}, "2": {"c#0": 1, "a#0": 0}}
    assert dev == {"3": {"a#1": 0, "b#0": 1}}, "a#1 is judged for it already"
    assert moved == 2


def test_a_corpus_too_small_to_be_cut(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(miniature, "READ", 0)
    with pytest.raises(InputError, match="query 1: found no passage that could stand for one"):
        miniature.cut(Collection(folder), "en", tmp_path / "out", 30, {"train": "train"})


def test_sizes_of_groups_cascades_and_averages(config):
    made = config(
        ranking={
            "rankers": {
                "wide": {
                    "loss": "listwise_softmax",
                    "group_size": 16,
                    "batch_size": 64,
                    "average": {"last": 100},
                    "fgm": {"start": 500},
                },
                "narrow": {"depth": 20, "after": "wide", "steps": 2, "batch_size": 4},
                "given": {"model": "embedded-ranker", "depth": 50},
            },
        }
    )
    layer = rehearsal.small(made, {}, {})["ranking"]["rankers"]
    assert layer["wide"]["group_size"] == 4 and layer["wide"]["batch_size"] == 16
    assert layer["wide"]["average"] == {"last": 2} and layer["wide"]["fgm"] == {"start": 1}
    assert layer["narrow"]["depth"] == 5
    assert (layer["narrow"]["steps"], layer["narrow"]["batch_size"]) == (2, 4)
    assert layer["given"] == {"depth": 10}, "a given ranker may have no setting of training"


def test_sizes_of_encoders(config):
    """Of the parts those in use alone: a part that does nothing is an error."""
    made = config(
        retrieval={
            "encoders": {
                "ance": {"method": "ance", "refresh": {"unit": "steps", "every": 1000}},
                "moco": {"method": "mcontriever", "batch_size": 2048, "steps": 500000},
                "tas": {"method": "tas_p", "clustered": {"clusters": 2000, "teacher": "mdpr"}},
            }
        }
    )
    layer = rehearsal.small(made, {}, {})["retrieval"]["encoders"]
    assert layer["ance"]["refresh"] == {"depth": 20, "every": 2} and "queue" not in layer["ance"]
    assert layer["moco"]["queue"] == {"size": 16}
    assert (layer["moco"]["steps"], layer["moco"]["batch_size"]) == (4, 8)
    assert layer["tas"]["clustered"] == {"clusters": 4}
    names = {wanted.name for wanted in rehearsal.wanted_models(made)}
    assert names == {"embedded", "mdpr"}


def test_given_runs_have_others_in_their_place(folder, tmp_path, offline):
    runs = tmp_path / "friend"
    runs.mkdir()
    (runs / "en-dev.trec").write_text("3 Q0 d#0 1 1.0 x\n")
    path = tmp_path / "own.yaml"
    path.write_text(f"collection: {{path: {folder}}}\nensemble: {{runs: {{friend: {runs}}}}}\n")
    one = rehearsal.Rehearsal(str(path), [f"work={offline}"])
    one.miniature_of(one.config)
    layer = one.given_members(one.config)
    made = Path(layer["ensemble"]["runs"]["friend"])
    assert [file.name for file in made.iterdir()] == ["en-dev.trec"]
    assert (made / "en-dev.trec").read_text().startswith("3 Q0 ")
    assert one.notes["runs"] == [f"{runs}: of other queries; invented runs stand for it"]


def test_a_collection_that_comes_to_hand_is_cut_anew(folder, tmp_path, offline):
    there = tmp_path / "later"
    path = tmp_path / "own.yaml"
    path.write_text(f"collection: {{path: {there}}}\nlanguages: [en]\n")
    made = rehearsal.Rehearsal(str(path), [f"work={offline}"])
    made.miniature_of(made.config)
    assert "not at hand" in made.notes["collections"][0]
    shutil.copytree(folder, there)
    cut = rehearsal.Rehearsal(str(path), [f"work={offline}"])
    part = cut.miniature_of(cut.config)
    assert cut.notes["collections"] == [f"{there}: 1 languages, cut from the files"]
    assert [query.qid for query in Collection(part["path"]).queries("en", "train")] == ["1", "2"]
