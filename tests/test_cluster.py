"""Ray: the same bytes with and without it, what dies and goes on, and what a user reads.

Two Ray nodes on this machine, of a core each, serve the whole module.
"""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # cluster_items.py, for actors
sys.path.insert(0, str(Path(__file__).parent / "ranking"))  # small.py
import small
import torch

from core import cluster
from core.cluster import Item
from core.config import load_config
from core.errors import InputError
from core.settings import Config, Ray
from core.task import Task
from ensemble import ablate
from ranking import rank
from retrieval import search, vectors

ROOT = Path(__file__).parent.parent
TOKEN = "a token of these tests alone, long enough"
NODE = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--block"]


def start_node(*arguments: str, **environment: str) -> subprocess.Popen:
    ray = Path(sys.executable).parent / "ray"
    return subprocess.Popen(
        [str(ray), "start", *arguments, *NODE],
        env={**os.environ, **environment},
        cwd="/",  # that actors work in the driver's folder is not by chance
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_until(is_so, what: str) -> None:
    end = time.monotonic() + 300  # beside other work a machine may be slow
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two nodes, which this process is connected to."""
    nodes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        port = free_port()
        try:
            nodes.append(start_node("--head", f"--port={port}", "--include-dashboard=false"))
            wait_until(lambda: listens(port), "the head does not listen")
            nodes.append(start_node(f"--address=127.0.0.1:{port}"))
            ray = cluster.connect(Ray(address=f"127.0.0.1:{port}"))
            alive = lambda: sum(node["Alive"] for node in ray.nodes())  # noqa: E731
            wait_until(lambda: alive() == 2, "the second node does not come")
            yield f"127.0.0.1:{port}", nodes
            ray.shutdown()
        finally:
            for node in nodes:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


@pytest.fixture
def on_ray(address, config):
    """A function that makes configurations for the cluster."""

    def make(**values) -> Config:
        return config(**{"engine": "ray", "ray": {"address": address[0]}, **values})

    return make


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> dict[str, str]:
    """Two tiny models: an encoder, and a cross-encoder as it is saved."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("bodies")
    BertModel(small.body().config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    small.tokenizer().save_pretrained(folder / "encoder")
    small.write(folder / "ranker")
    return {"encoder": str(folder / "encoder"), "ranker": str(folder / "ranker")}


def stages(bodies) -> dict:
    """Vectors and scores of the two models; nothing is trained."""
    return {
        "retrieval": {
            "sources": ["dense"],
            "dense": {"backbone": bodies["encoder"], "max_length": 32},
            "hybrid": {"weights": "equal"},
        },
        "ranking": {
            "rankers": {"given": {"model": bodies["ranker"], "query_length": 8}},
            "rerank": {"depth": 4},
        },
    }


def outputs(work: Path, *patterns: str) -> dict[str, bytes]:
    """By name, the bytes of files below a work folder."""
    found = {}
    for pattern in patterns:
        for path in sorted(work.rglob(pattern)):
            found[str(path.relative_to(work))] = path.read_bytes()
    return found


def test_the_same_bytes_with_and_without_ray(on_ray, config, bodies, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor of one core
    try:
        for name in ("alone", "shared"):
            make = config if name == "alone" else on_ray
            made = make(work=str(tmp_path / name), **stages(bodies))
            search.run(made)
            rank.run(made)
    finally:
        torch.set_num_threads(threads)
    kinds = ("chunk-*.npy", "run.trec")
    alone = outputs(tmp_path / "alone", *kinds)
    assert outputs(tmp_path / "shared", *kinds) == alone
    assert len(alone) == 3 + 8 + 8 + 6, "chunks, runs of dense and hybrid, runs of the ranker"
    said = capsys.readouterr().out
    assert "dense vectors: 3 items for 2 actors of Ray" in said
    assert "scores of given: 6 items for 2 actors of Ray" in said


def share(config, folder, work: str, *ids: tuple) -> list:
    items = [Item(f"item {number}", each) for number, each in enumerate(ids)]
    of_tests = "cluster_items:{}".format
    return cluster.share(config, of_tests("begin"), (folder,), of_tests(work), items, "test")


def test_two_nodes_work_at_once_in_one_folder(on_ray, tmp_path):
    first, second = share(on_ray(), tmp_path, "meet", ("a", "b"), ("b", "a"))
    assert first != second, "the items were on different nodes"
    begun = (tmp_path / "begun").read_text().split()
    assert len(set(begun)) == 2, "one process a node"
    assert not list((tmp_path / "work").rglob(".seen-by-all-*")), "what was tried is gone"


def test_a_killed_actor_starts_again_and_nothing_is_half_or_twice(on_ray, tmp_path):
    names = [f"n{number}" for number in range(6)]
    ids = [(name, "n2", 1) for name in names]
    assert share(on_ray(), tmp_path, "write", *ids) == names
    assert {(tmp_path / name).read_text() for name in names} == {"half and half"}
    tries = Counter((tmp_path / "tries").read_text().split())
    assert tries == {**dict.fromkeys(names, 1), "n2": 2}


def test_chunks_whose_actors_are_killed_are_all_there(on_ray, config, bodies, tmp_path):
    """Each first try is killed (SIGKILL) between the last byte and the file's name."""
    for name, make in (("alone", config), ("shared", on_ray)):
        made = make(work=str(tmp_path / name), **stages(bodies))
        task = Task(made)
        steps = search.plan(task)
        for language in ("de", "sw"):
            step = steps[f"passages/{language}"]
            step.path.parent.mkdir(parents=True, exist_ok=True)
            step.build(made_folder(step.path))
            vectors_step = steps[f"vectors/{language}"]
            vectors_step.part.mkdir(parents=True)
            if name == "alone":
                vectors_step.work(vectors_step.part, 0)
    recipes = {name: steps[name].recipe for name in ("vectors/de", "vectors/sw")}
    told = (made.model_dump_json(exclude_unset=True), "retrieval", recipes)
    items = [Item(name, (name, 0)) for name in recipes]
    rows = cluster.share(
        made,
        "core.cluster:planned",
        told,
        "cluster_items:encode_and_die_once",
        items,
        "vectors",
    )
    assert rows == [2, 3], "passages of the two languages"
    alone = outputs(tmp_path / "alone", "chunk-*.npy")
    assert outputs(tmp_path / "shared", "chunk-*.npy") == alone and len(alone) == 2


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_an_item_that_kills_its_actor_each_time_is_named(on_ray, tmp_path):
    ids = [(name, "bad", 99) for name in ("good", "bad")]
    with pytest.raises(InputError, match="item 1: its actor ended 3 times: The actor died") as told:
        share(on_ray(), tmp_path, "write", *ids)
    assert "What others made stays" in str(told.value)
    tries = Counter((tmp_path / "tries").read_text().split())
    assert tries == {"good": 1, "bad": 3} and (tmp_path / "good").exists()
    assert not (tmp_path / "bad").exists()


def test_what_an_actor_refuses_is_said_as_it_is(on_ray, tmp_path):
    with pytest.raises(InputError, match="^item 0: x.txt, line 3: found nothing, expected someth"):
        share(on_ray(), tmp_path, "refuse", ("x",))


def test_a_killed_driver_goes_on(on_ray, bodies, folder, tmp_path):
    """The first run has a Ray of its own (no address), the second is on the cluster."""
    count = 6 * vectors.CHUNK
    lines = []
    for number in range(count):
        passage = {"docid": f"{number}#0", "title": "", "text": "tea grows in kenya"}
        lines.append(json.dumps(passage) + "\n")
    corpus = folder / "en" / "corpus" / "docs-0.jsonl.gz"
    corpus.write_bytes(gzip.compress("".join(lines).encode(), 1))
    collection = {"source": "disk", "path": str(folder), "allow": ["unknown_passages"]}
    made = on_ray(languages=["en"], name="killed", collection=collection, **stages(bodies))
    file = tmp_path / "killed.yaml"
    values = made.model_dump(exclude_unset=True, exclude={"ray"})
    file.write_text(json.dumps(values))
    command = [sys.executable, "-m", "retrieval.search", str(file), "ray.num_cpus=1"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    part = search.plan(Task(made))["vectors/en"].part
    try:
        wait_until(lambda: list(part.glob("chunk-*.npy")), "no chunk is written")
    finally:
        driver.kill()
        driver.wait()
    time.sleep(1)  # its actors end with it
    first = {path.name: path.stat().st_mtime_ns for path in part.glob("chunk-*.npy")}
    assert 0 < len(first) < 6, "it was killed in the middle"
    search.run(load_config(file, [f"ray.address={made.ray.address}"]))
    path = search.plan(Task(made))["vectors/en"].path
    now = {chunk.name: chunk.stat().st_mtime_ns for chunk in path.glob("chunk-*.npy")}
    assert len(now) == 6 and now | first == now, "what was there is not made again"
    assert len(vectors.open_vectors(path)) == count


ROWS = """
base: base.yaml
seeds: [0, 1]
rows:
  first: {{system: hybrid}}
  given: {{on: first, ranker: {{model: {ranker}, query_length: 8}}}}
  deeper: {{on: given, set: {{ranking: {{rerank: {{depth: 3}}}}}}}}
"""


def test_rows_of_an_ablation(on_ray, bodies, tmp_path, capsys):
    """Made by actors, measured here: the table is that of one machine."""
    values = on_ray(**stages(bodies)).model_dump(exclude_unset=True, exclude={"name"})
    values["ranking"]["rankers"] = {"of_the_base": {}}
    tables = []
    for name, settings in (("shared", []), ("alone", ["engine=local", "ray.address=null"])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base.yaml").write_text(json.dumps({**values, "work": str(folder / "work")}))
        (folder / "rows.yaml").write_text(ROWS.format(**bodies))
        ablate.run(folder / "rows.yaml", settings)
        table = folder / "work" / "small" / "rows" / "ablation.json"
        lines = json.loads(table.read_text())
        tables.append([{**line, "seconds": None} for line in lines])
    assert tables[0] == tables[1] and "deeper" in {line["row"] for line in tables[0]}
    said = capsys.readouterr().out
    assert "rows: 3 items for 2 actors of Ray" in said
    made = [outputs(tmp_path / name, "run.trec") for name in ("shared", "alone")]
    assert made[0] == made[1], "the same runs, and no more of them"


# ---- What a user reads


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError,
        match=r"engine: found ray, but Ray is not installed here; "
        r"pip install -r requirements-ray.txt, on every machine, or set engine=local",
    ):
        cluster.connect(Ray())


@pytest.mark.parametrize("wrong", ["ray://head:10001", "head", "head:", "a b:1"])
def test_an_address_that_is_none(wrong):
    with pytest.raises(InputError, match="ray.address: found .*, expected HOST:PORT of a cluster"):
        cluster.check_address(wrong)


def test_an_address_where_nobody_answers():
    port = free_port()
    with pytest.raises(
        InputError,
        match=rf"ray.address: nobody answers at 127.0.0.1:{port} \(.*refused\); start the cluster "
        rf"there \(ray start --head --port {port}\), or set ray.address=null for this machine",
    ):
        cluster.check_address(f"127.0.0.1:{port}")


@pytest.mark.parametrize("settings", [{"num_gpus": 0.5}, {"num_cpus": 2}])
def test_a_cluster_without_what_an_actor_takes(on_ray, address, tmp_path, settings):
    made = on_ray(ray={"address": address[0], **settings})
    with pytest.raises(
        InputError,
        match=r"but the cluster's 2 nodes have 1, 1 cores and 0, 0 GPUs; lower ray.num_cpus or "
        r"ray.num_gpus",
    ):
        share(made, tmp_path, "write", ("a", "", 0))


def test_gpus_are_taken_where_there_are_some(monkeypatch):
    """No GPU here: of Ray, what a cluster says that it has is stood in for."""

    class Cluster:
        def cluster_resources(self):
            return {"CPU": 16.0, "GPU": 5.0}

        def nodes(self):
            each = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}]
            return [{"Alive": True, "Resources": one} for one in each]

    assert cluster.gpus_of(Cluster(), Ray()) == 1
    assert cluster.actors_on(Cluster(), Ray()) == [4, 1, 0]
    assert cluster.actors_on(Cluster(), Ray(num_gpus=0.5)) == [8, 2, 0]
    assert cluster.actors_on(Cluster(), Ray(num_gpus=0.0, num_cpus=4)) == [2, 2, 2]


def test_a_work_folder_that_nodes_do_not_share(on_ray, tmp_path):
    """A name for an open folder, which every process reads as one of its own."""
    mine = os.open(tmp_path, os.O_RDONLY)
    try:
        made = on_ray(work=f"/proc/self/fd/{mine}/work")
        with pytest.raises(
            InputError,
            match=rf"/proc/self/fd/{mine}/work/small: the node .* does not see what is written "
            r"here; put the folder \(work=…\) on a disk that all machines share",
        ):
            share(made, tmp_path, "write", ("a", "", 0))
    finally:
        os.close(mine)
    assert not (tmp_path / "a").exists(), "before any work"


def test_a_disk_without_locks_between_machines():
    here = {"text": "1", "locks": True, "versions": {}, "code": ""}
    with pytest.raises(InputError, match="work: the node n gets a lock that is held here; mount"):
        cluster.check_node("n", here, {**here, "locks": False}, Path("work"))


def test_nodes_with_other_code():
    here = {"text": "1", "locks": True, "versions": {}, "code": "a"}
    with pytest.raises(InputError, match="the node n has another state of Continuum in .*; bring"):
        cluster.check_node("n", here, {**here, "code": "b"}, Path("work"))


def test_a_machine_that_would_make_another_output(config, bodies):
    made = config(**stages(bodies))
    recipe = search.plan(Task(made))["vectors/sw"].recipe
    other = {**recipe, "settings": {**recipe["settings"], "precision": "bf16"}}
    with pytest.raises(
        InputError,
        match=r"would make another vectors/sw than the machine that leads "
        r"\(precision: bf16 -> fp32\); lead from a machine like the others, or set",
    ):
        cluster.planned(
            made.model_dump_json(exclude_unset=True), "retrieval", {"vectors/sw": other}
        )


def test_what_others_wrote_may_come_late(tmp_path, monkeypatch):
    file = tmp_path / "chunk"
    later = threading.Timer(0.2, file.touch)
    later.start()
    cluster.wait_for(file.exists, "a chunk")
    later.join()
    monkeypatch.setattr(cluster, "APPEARING", 0)
    with pytest.raises(InputError, match="another: other machines have written it, but it is not"):
        cluster.wait_for(lambda: False, "another")


def test_nodes_with_other_versions(on_ray, address, tmp_path):
    """A third node, which finds another numpy's note; last, since it stays in the cluster."""
    import ray

    note = tmp_path / "packages" / "numpy-9.9.9.dist-info" / "METADATA"
    note.parent.mkdir(parents=True)
    note.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    where, nodes = address
    nodes.append(start_node(f"--address={where}", PYTHONPATH=str(tmp_path / "packages")))
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 3, "no third node")
    with pytest.raises(
        InputError,
        match=r"the node .* has numpy 9.9.9, this machine .*; install requirements.txt and "
        r"requirements-ray.txt there, and start it again",
    ):
        share(on_ray(), tmp_path, "write", ("a", "", 0))
    assert not (tmp_path / "a").exists(), "before any work"
