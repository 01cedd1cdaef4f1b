"""Work on many machines: items that are known by ids, made by actors of a Ray cluster.

The files are the protocol: an actor loads what it needs once, makes an item and writes it, whole or
not at all, into the folder that all machines share; what is there is not made again. Only ids and
small notes travel, so Ray's object store stays empty. What is relied upon of the shared disk is
tried before work begins: what one machine wrote another reads, and a lock that one holds another
can't have.
"""

import importlib
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import distributed
from core.console import progress, say
from core.errors import InputError
from core.files import locked
from core.machine import counted
from core.settings import Config, Ray
from core.steps import Plan, Step, changes
from core.task import Task

ROOT = Path(__file__).resolve().parent.parent
RETRIES = 2  # new starts of an actor, and new tries of an item, before it is an error
OBJECT_STORE = 100_000_000  # bytes: next to nothing is put there
ANSWER = 5.0  # seconds that a cluster has to answer at its address
LOOKING = 60.0  # seconds that each node has to tell what it sees
APPEARING = 120.0  # seconds until all see what one wrote: network disks remember what wasn't there
PLANS = {"retrieval": "retrieval.search", "data_aug": "data_aug.build", "ranking": "ranking.rank"}
"""Stage -> the module whose ``plan`` an actor calls."""

# What decides the bytes of vectors and scores
COMPARED = ("torch", "transformers", "tokenizers", "sentence-transformers", "openvino", "numpy")


# ---- The cluster


def leads(config: Config) -> bool:
    """Whether this process shares its work out: one that a launcher started has its own part."""
    return config.engine == "ray" and distributed.world_size() == 1


def connect(settings: Ray) -> Any:
    """Ray, connected to the cluster at ``ray.address``, or to one of this machine alone.

    A connection stays until the process ends. Raises InputError without Ray, for an address that
    is none, and where nobody answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read as it is imported
    try:
        import ray
    except ImportError:
        raise InputError(
            "engine: found ray, but Ray is not installed here; "
            "pip install -r requirements-ray.txt, on every machine, or set engine=local"
        ) from None
    if ray.is_initialized():
        return ray
    own: dict[str, Any] = {}
    if settings.address is None:
        own = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    else:
        check_address(settings.address)
    try:
        ray.init(settings.address or "local", log_to_driver=False, **own)
    except (RuntimeError, ConnectionError, ray.exceptions.RayError) as error:
        raise InputError(
            f"ray.address: found {settings.address or 'none'}, but Ray gives: {brief(error)}; is a "
            "cluster of this version there, and is its token set here (RAY_AUTH_TOKEN_PATH)?"
        ) from None
    return ray


def check_address(address: str) -> None:
    """Raises InputError for what is no address, or where nothing listens.

    Ray itself would wait for two minutes, and then end the process.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+", host) or not port.isdigit():
        raise InputError(
            f"ray.address: found {address!r}, expected HOST:PORT of a cluster's head, or auto for "
            "the one that this machine is part of"
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise InputError(
            f"ray.address: nobody answers at {address} ({error}); start the cluster there "
            f"(ray start --head --port {port}), or set ray.address=null for this machine alone"
        ) from None


def actors_on(ray: Any, settings: Ray) -> list[int]:
    """How many actors each node has room for.

    Raises InputError where that is none, as on a cluster without the GPUs that are asked for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = gpus_of(ray, settings)
    room = []
    for resources in nodes:
        actors = int(resources.get("CPU", 0) // settings.num_cpus)
        if gpus:
            actors = min(actors, int(resources.get("GPU", 0) / gpus))
        room.append(actors)
    if not any(room):
        cores = ", ".join(f"{resources.get('CPU', 0):g}" for resources in nodes)
        cards = ", ".join(f"{resources.get('GPU', 0):g}" for resources in nodes)
        raise InputError(
            f"ray: an actor takes num_cpus={settings.num_cpus} and num_gpus={gpus:g} of one node, "
            f"but the cluster's {counted(len(nodes), 'node')} have {cores} cores and {cards} GPUs; "
            "lower ray.num_cpus or ray.num_gpus, or start nodes that have them"
        )
    return room


def gpus_of(ray: Any, settings: Ray) -> float:
    """What an actor takes: the setting, or without it one GPU where the cluster has any."""
    if settings.num_gpus is not None:
        return settings.num_gpus
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


# ---- What the nodes must have in common


def check_nodes(ray: Any, work: Path) -> None:
    """Each node sees what this machine writes, respects its locks, and has its code and versions.

    ``work``: the folder that outputs lie in. Raises InputError that names the first that does not.
    """
    look = looking()
    work.mkdir(parents=True, exist_ok=True)
    probe = work.absolute() / f".seen-by-all-{secrets.token_hex(4)}"
    try:
        with locked(probe):
            here = look(str(ROOT), str(probe), COMPARED)
            for node, there in looks(ray, look, probe):
                check_node(node, here, there, work)
    finally:
        probe.unlink(missing_ok=True)


def looking() -> Callable[[str, str, Sequence[str]], dict]:
    """A function that tells what a node sees.

    It is made here, and needs nothing of ours, so that Ray ships it to nodes without our code.
    """

    def look(root: str, probe: str, packages: Sequence[str]) -> dict:
        import fcntl
        import hashlib
        import importlib.metadata
        import platform
        from pathlib import Path

        versions = {"Python": platform.python_version()}
        for package in packages:
            try:  # a build for GPUs (+cu128) is the same version
                versions[package] = importlib.metadata.version(package).split("+")[0]
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "none"
        code = hashlib.sha256()
        for room in ("core", "training", "retrieval", "data_aug", "ranking", "ensemble"):
            for path in sorted((Path(root) / room).rglob("*.py")):
                code.update(path.read_bytes())
        seen = {"versions": versions, "code": code.hexdigest(), "text": None, "locks": True}
        try:
            with Path(probe).open("r+") as held:
                seen["text"] = held.read()
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                seen["locks"] = False  # it had it, although another machine holds it
        except OSError:
            pass
        return seen

    return look


def looks(ray: Any, look: Callable, probe: Path) -> Iterator[tuple[str, dict]]:
    """(name, what it sees) of each node. Raises InputError for one that tells nothing."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote_look = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            on_it = remote_look.options(scheduling_strategy=there)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            asked[on_it.remote(str(ROOT), str(probe), COMPARED)] = name
    for seen, name in asked.items():
        try:
            yield name, ray.get(seen, timeout=LOOKING)
        except ray.exceptions.RayError as error:
            raise InputError(f"ray: the node {name} does not answer: {brief(error)}") from None


def check_node(node: str, here: dict, there: dict, work: Path) -> None:
    """Raises InputError for what a node sees otherwise than this machine."""
    if there["text"] != here["text"]:
        raise InputError(
            f"{work}: the node {node} does not see what is written here; put the folder (work=…) "
            "on a disk that all machines share, under one path"
        )
    if not there["locks"]:
        raise InputError(
            f"{work}: the node {node} gets a lock that is held here; mount the shared disk with "
            "locks between machines (NFS 4, or Lustre's option flock)"
        )
    for package, version in here["versions"].items():
        found = there["versions"][package]
        if found != version:
            raise InputError(
                f"ray: the node {node} has {package} {found}, this machine {version}; install "
                "requirements.txt and requirements-ray.txt there, and start it again"
            )
    if there["code"] != here["code"]:
        raise InputError(
            f"ray: the node {node} has another state of Continuum in {ROOT}; bring all machines "
            "to one, or put the folder on the disk that they share"
        )


def brief(error: Exception) -> str:
    """The first line of a message of Ray's."""
    return str(error).strip().splitlines()[0]


# ---- Items


class Item(NamedTuple):
    """Work for an actor: ``ids`` are what it makes it by, ``name`` what errors call it."""

    name: str
    ids: tuple


def worker() -> type:
    """The class of actors: it begins once, at its first item, and then makes one after the other.

    As what ``looking`` makes it needs nothing of ours to be shipped. Functions are told by name,
    MODULE:FUNCTION, and found in ``paths``, the leading machine's.
    """

    class Worker:
        def __init__(self, folder: str, paths: list[str], threads: int, begin: str, told: tuple):
            import os
            import sys

            os.chdir(folder)
            sys.path += [path for path in paths if path not in sys.path]
            os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch and others are imported
            self.begin, self.told = begin, told
            self.begun: Any = None

        def make(self, work: str, ids: tuple) -> Any:
            """``work(what begin gave, *ids)``: a small note of what it wrote."""
            if self.begun is None:
                self.begun = self.function(self.begin)(*self.told)
            return self.function(work)(self.begun, *ids)

        def function(self, name: str) -> Any:
            import importlib

            module, _, function = name.partition(":")
            return getattr(importlib.import_module(module), function)

    return Worker


def share(
    config: Config, begin: str, told: tuple, work: str, items: Sequence[Item], what: str
) -> list:
    """What ``work(begun, *ids)`` says of each item, in order, by as many actors as there is room.

    ``begin(*told)`` gives ``begun``, once an actor; both functions are MODULE:FUNCTION. An actor
    without an item ends, so that one that lost its node finds room. Raises InputError, with the
    item's name, for one that ends its actor every time.
    """
    if not items:
        return []
    ray = connect(config.ray)
    check_nodes(ray, config.home)
    room = actors_on(ray, config.ray)
    count = min(sum(room), len(items))
    say(f"  {what}: {counted(len(items), 'item')} for {counted(count, 'actor')} of Ray")
    make_actor = ray.remote(worker()).options(
        num_cpus=config.ray.num_cpus,
        num_gpus=gpus_of(ray, config.ray),
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
    settings = (os.getcwd(), [str(ROOT), *sys.path], config.ray.num_cpus, begin, told)
    left = iter(range(len(items)))
    actors = []
    running: dict[Any, tuple[Any, int]] = {}  # answer to come -> actor, number of the item
    notes: list[Any] = [None] * len(items)

    def give(actor: Any) -> None:
        number = next(left, None)
        if number is None:
            ray.kill(actor)
        else:
            running[actor.make.remote(work, items[number].ids)] = actor, number

    try:
        for _ in range(count):
            actors.append(make_actor.remote(*settings))
            give(actors[-1])
        with progress(None, len(items), what, "item") as bar:
            while running:
                (answer,), _ = ray.wait(list(running), num_returns=1)
                actor, number = running.pop(answer)
                notes[number] = note_of(ray, answer, items[number].name)
                bar.update()
                give(actor)
    finally:
        for actor in actors:
            ray.kill(actor)
    return notes


def note_of(ray: Any, answer: Any, name: str) -> Any:
    """What an actor said of an item. Raises InputError, with the item's name, where it ended."""
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(f"{name}: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"{name}: its actor ended {RETRIES + 1} times: {brief(error)} Is it memory, or the "
            "machine? What others made stays, and the same command goes on from there; "
            "engine=local makes it without Ray"
        ) from None


# ---- Items of steps


def share_steps(config: Config, items: Sequence[tuple[Step, int]], what: str) -> list:
    """The notes of ``step.work`` for each (step, number); all steps are of one stage."""
    if not items:
        return []
    recipes = {step.name: step.recipe for step, _ in items}
    stage = items[0][0].stage
    told = (config.model_dump_json(exclude_unset=True), stage, recipes)
    named = [Item(f"{step.name}, part {number}", (step.name, number)) for step, number in items]
    return share(config, "core.cluster:planned", told, "core.cluster:work_on", named, what)


def planned(config: str, stage: str, recipes: dict[str, dict]) -> Plan:
    """A stage's plan on this machine, as JSON gives its configuration.

    Raises InputError where the machine would make other outputs than ``recipes`` say, by the
    number formats that it has, for example.
    """
    task = Task(Config.model_validate_json(config))
    plan = importlib.import_module(PLANS[stage]).plan(task)
    for name, recipe in recipes.items():
        if plan[name].recipe != recipe:
            raise InputError(
                f"{socket.gethostname()} would make another {name} than the machine that leads "
                f"({changes(recipe, plan[name].recipe)}); lead from a machine like the others, or "
                "set what differs, as a precision, by name"
            )
    return plan


def work_on(plan: Plan, name: str, number: int) -> Any:
    """One item of a step, in its partial output."""
    step = plan[name]
    assert step.work is not None, f"{name} is not parted into items"
    return step.work(step.part, number)


def wait_for(is_there: Callable[[], bool], what: str) -> None:
    """Waits until this machine sees what others wrote. Raises InputError if it never does."""
    end = time.monotonic() + APPEARING
    while not is_there():
        if time.monotonic() > end:
            raise InputError(
                f"{what}: other machines have written it, but it is not seen here after "
                f"{APPEARING:.0f} s; is it one disk?"
            )
        time.sleep(0.5)
