"""The commit that a name stands for, and what a user reads of the hub's faults."""

import json
import shutil

import pytest

from core import backbones
from core.errors import InputError
from tests.core import hub
from tests.ranking import small


@pytest.fixture
def model(tmp_path):
    return small.write(tmp_path / "model")


@pytest.fixture
def served(model):
    server = hub.serve({"them/model": model})
    yield server
    server.shutdown()
    server.server_close()


ASK = """
from pathlib import Path
from core import backbones, hub
from core.errors import InputError
models = Path({models!r})
for name in {names!r}:
    try:
        print(backbones.fingerprint(name, models), backbones.source(name, models))
    except InputError as error:
        print(error)
"""


def ask(server, tmp_path, *names, **more):
    """What fingerprint and source say of names, in a process of its own."""
    code = ASK.format(models=str(tmp_path / "models"), names=names)
    done = hub.run(server, tmp_path / "hf", code, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def forget(tmp_path):
    """Lets the notes of asked commits be a day old."""
    for note in (tmp_path / "models" / "hub").glob("*.json"):
        noted = json.loads(note.read_text("utf-8"))
        note.write_text(json.dumps({**noted, "asked": noted["asked"] - 86400}))


def test_a_model_that_changes_on_the_hub_is_a_new_input(served, tmp_path):
    (first,) = ask(served, tmp_path, "them/model")
    assert first.split()[1] == f"them/model@{hub.COMMIT}"
    served.commits["them/model"] = "d" * 40
    assert ask(served, tmp_path, "them/model") == [first], "within a minute it is not asked again"
    forget(tmp_path)
    (second,) = ask(served, tmp_path, "them/model")
    assert second.split()[1] == f"them/model@{'d' * 40}"
    assert second.split()[0] != first.split()[0]
    served.faults["them/model"] = 503
    forget(tmp_path)
    offline = ask(served, tmp_path, "them/model", HF_HUB_OFFLINE="1")
    assert offline == [second], "without the hub it is what it said last"


def test_the_cached_commit_counts_offline(served, tmp_path):
    load = "from core import backbones; backbones.load_tokenizer('them/model')"
    assert hub.run(served, tmp_path / "hf", load).returncode == 0
    offline = ask(served, tmp_path, "them/model", "them/other", HF_HUB_OFFLINE="1")
    assert offline[0].split()[1] == f"them/model@{hub.COMMIT}"
    assert offline[1].split()[1] == "them/other", "nobody knows it: loading will say so"


def test_revisions(served, model, tmp_path):
    """A branch and its commit are one input; a commit is not asked for."""
    commit = hub.commit_of("v2")
    served.models["them/model"] = {"main": model, "v2": model}
    by_name, by_commit, main, wrong = ask(
        served,
        tmp_path,
        "them/model@v2",
        f"them/model@{commit}",
        "them/model",
        "them/model@v3",
    )
    assert by_name == by_commit and by_name.split()[1] == f"them/model@{commit}"
    assert main.split()[1] == f"them/model@{hub.COMMIT}"
    assert main.split()[0] != by_name.split()[0]
    assert wrong == (
        "model them/model@v3: the hub answers 404: there is none of this revision; "
        "look it up on the hub"
    )
    assert not any(commit in path for path in served.asked)


def test_revisions_of_listed_backbones():
    entry = backbones.backbone("mdpr@v2")
    assert (entry.hub_id, entry.pooling, entry.revision) == (
        "castorini/mdpr-tied-pft-msmarco",
        "cls",
        "v2",
    )
    with pytest.raises(InputError, match="embedded@v2: embedded comes with Continuum and has no"):
        backbones.backbone("embedded@v2")
    with pytest.raises(InputError, match="mdpr@: expected a branch, tag or commit behind the @"):
        backbones.backbone("mdpr@")


def test_a_folder_with_an_at_sign_is_a_folder(model, tmp_path):
    other = shutil.copytree(model, tmp_path / "model@home")
    assert backbones.source(str(other), tmp_path / "models") == str(other)
    assert backbones.load_tokenizer(str(other)).vocab_size > 0


def test_fingerprints_of_folders_and_of_the_embedded_model_are_the_old_ones(model, tmp_path):
    from core import embedded
    from core.files import digest, file_digest

    files = sorted(path for path in model.rglob("*") if path.suffix in (".json", ".safetensors"))
    digests = [file_digest(path, tmp_path / "digests") for path in files]
    assert backbones.fingerprint(str(model), tmp_path) == digest([str(model), digests])
    assert backbones.fingerprint("embedded", tmp_path) == embedded.folder_name()


LOAD = """
from core import backbones
from core.errors import InputError
try:
    backbones.load_tokenizer("them/model")
    backbones.load_encoder("them/model")
    print("loaded")
except InputError as error:
    print("error:", error)
"""

FAULTS = {
    401: (
        "the hub answers 401: there is none of this name, or it is not open to all; look the name "
        "up, accept the terms on its page, make a token there, and set HF_TOKEN to it"
    ),
    404: "the hub answers 404: there is none of this name; look it up on the hub",
    500: "the hub answers 500, a fault of its own; what was fetched is kept, start again to go on",
}


@pytest.mark.parametrize("status", FAULTS)
def test_a_hub_that_refuses(status, served, tmp_path):
    served.faults["them/model"] = status
    done = hub.run(served, tmp_path / "hf", LOAD)
    assert done.stdout.strip() == f"error: backbone them/model: {FAULTS[status]}", done.stderr
    if status in (401, 404):
        assert ask(served, tmp_path, "them/model") == [f"model them/model: {FAULTS[status]}"]


def test_a_hub_that_is_busy_for_a_while(served, tmp_path):
    """Once for the commit and once for a file."""
    served.faults["/api/models/them/model"] = [429]
    served.faults["config.json"] = [429]
    (answer,) = ask(served, tmp_path, "them/model")[-1:]
    assert answer.split()[1] == f"them/model@{hub.COMMIT}"
    assert hub.run(served, tmp_path / "hf", LOAD).stdout.strip() == "loaded"


def test_a_hub_that_stays_busy(served, tmp_path):
    served.faults["resolve"] = 429
    done = hub.run(served, tmp_path / "hf", LOAD)
    assert done.stdout.strip() == (
        "error: backbone them/model: the hub answers 429, too many requests, however often it is "
        "asked; wait some minutes, or set HF_TOKEN, which may ask more often; "
        "what was fetched is kept, start again to go on"
    )
    assert len(served.asked) >= 6, "it was asked with patience"


def test_a_busy_hub_is_not_one_without_safetensors(served, tmp_path):
    """config.json is there already: the weights must not be looked for under other names."""
    served.faults["model.safetensors"] = 429
    done = hub.run(served, tmp_path / "hf", LOAD)
    assert done.stdout.startswith("error: backbone them/model: the hub answers 429"), done.stdout


def test_a_transfer_that_ends_too_early(served, tmp_path):
    served.faults["model.safetensors"] = "short"
    done = hub.run(served, tmp_path / "hf", LOAD)
    assert "error: backbone them/model: the transfer broke off (" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("what was fetched is kept, start again to go on")
    served.faults.clear()
    assert hub.run(served, tmp_path / "hf", LOAD).stdout.strip() == "loaded"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_bytes_that_are_not_the_files(name, served, tmp_path):
    served.faults[name] = "spoilt"
    done = hub.run(served, tmp_path / "hf", LOAD)
    assert done.stdout.startswith("error: backbone them/model"), done.stdout + done.stderr
    assert "cannot be loaded (" in done.stdout or "fetch it again" in done.stdout, done.stdout
