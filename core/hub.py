"""The model hub: the commit that a model's name stands for, and what the hub's faults mean.

A model is named ``OWNER/MODEL`` or ``OWNER/MODEL@REVISION``, a branch, tag or commit. Its outputs
are fingerprinted by the commit, which is asked for once a minute and noted in the work folder: all
processes of a launch then work on one.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from core.console import say
from core.errors import InputError
from core.files import locked, write_json

Answer = TypeVar("Answer")

FRESH = 60.0  # seconds for which a noted commit counts without asking again
TIMEOUT = 10.0  # seconds that the hub has to answer
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try, where the hub does not name some
LONGEST_WAIT = 120.0  # seconds that are waited at most where it does
OVERLOADED = (429, 500, 502, 503, 504)  # answers after which it is asked again
COMMIT = re.compile(r"[0-9a-f]{40}")
AGAIN = "what was fetched is kept, start again to go on"


def parted(name: str) -> tuple[str, str | None]:
    """A name without its revision, and that, or None.

    Raises InputError for an ``@`` with nothing behind it.
    """
    plain, at, revision = name.partition("@")
    if at and not revision:
        raise InputError(f"{name}: expected a branch, tag or commit behind the @")
    return plain, revision or None


def pretrained(where: str) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` takes: a folder or id, and its keyword argument for a revision."""
    if Path(where).is_dir():
        return where, {}
    plain, revision = parted(where)
    return plain, {"revision": revision} if revision else {}


# ---- The commit of a name


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE keeps this process from asking."""
    from huggingface_hub.constants import is_offline_mode

    return is_offline_mode()


@cache
def commit(hub_id: str, revision: str | None, models: Path) -> str | None:
    """The commit that a model's revision, or its main branch, is at; None where nobody knows.

    The hub says it. Where it does not answer, it is what it said last (noted in ``models``), or
    what the cache has; with HF_HUB_OFFLINE the cache comes first. Raises InputError where the hub
    answers that there is no such model or revision, or that it takes a token, and the cache has
    none.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    name = f"{hub_id}@{revision or 'main'}"
    note = models / "hub" / f"{name.replace('/', '--')}.json"
    with locked(note.with_suffix(".lock")):
        noted = json.loads(note.read_text("utf-8")) if note.is_file() else None
        if is_offline():
            return cached_commit(hub_id, revision) or (noted and noted["commit"])
        if noted and time.time() - noted["asked"] < FRESH:
            return noted["commit"]
        found = asked_commit(hub_id, revision)
        if found is None:
            found = noted["commit"] if noted else cached_commit(hub_id, revision)
        write_json(note, {"commit": found, "asked": time.time()})
    return found


def asked_commit(hub_id: str, revision: str | None) -> str | None:
    """As the hub says; None where it does not answer. Raises InputError as ``commit`` does."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> Any:
        return HfApi().model_info(hub_id, revision=revision, timeout=TIMEOUT)

    try:
        return patiently(ask, f"model {hub_id}").sha
    except HfHubHTTPError as error:
        is_refused = status_of(error) in (401, 403, 404)
        if not is_refused or cached_commit(hub_id, revision):
            return None
        name = f"{hub_id}@{revision}" if revision else hub_id
        raise InputError(f"model {name}: {meaning(error)}") from None
    except (OSError, ValueError, transfer_error()):
        return None


def cached_commit(hub_id: str, revision: str | None) -> str | None:
    """The commit of a revision, or of main, in the hub's cache on this machine; None if none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=hub_id, repo_type="model")
    file = Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")
    return file.read_text("utf-8").strip() if file.is_file() else None


# ---- Faults


def transfer_error() -> type[Exception]:
    """What the hub's client raises where a connection or a transfer fails."""
    import httpx2

    return httpx2.HTTPError


def patiently(ask: Callable[[], Answer], what: str) -> Answer:
    """What ``ask`` gives; where the hub is overloaded, it is asked again after a while.

    For the calls that the hub's client does not repeat by itself. ``what`` is asked for. Raises
    what ``ask`` raises, at last.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for wait in WAITS:
        try:
            return ask()
        except HfHubHTTPError as error:
            status = status_of(error)
            if status not in OVERLOADED:
                raise
            seconds = named_wait(error) or wait
            say(f"{what}: the hub answers {status}; it is asked again in {seconds:.0f} s")
        time.sleep(seconds)
    return ask()


def named_wait(error: Any) -> float | None:
    """Seconds that an answer asks to wait (``Retry-After``), at most LONGEST_WAIT."""
    named = error.response.headers.get("Retry-After", "")
    return min(float(named), LONGEST_WAIT) if named.isdigit() else None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from: the client's own is the last of several."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The number of the hub's answer that an error comes from; None for other errors.

    That a model has no file of some name is no fault of the hub's, and not looked at.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for one in causes(error):
        if isinstance(one, HfHubHTTPError) and not isinstance(one, EntryNotFoundError):
            return one.response.status_code
    return None


def meaning(error: BaseException) -> str | None:
    """What the hub's answer means and what to do; None for errors that are no answer of its."""
    from huggingface_hub.errors import RevisionNotFoundError

    status = status_of(error)
    chain = list(causes(error))
    if status in (401, 403):
        return (
            f"the hub answers {status}: there is none of this name, or it is not open to all; "
            "look the name up, accept the terms on its page, make a token there, "
            "and set HF_TOKEN to it"
        )
    if status == 404:
        is_revision = any(isinstance(one, RevisionNotFoundError) for one in chain)
        lacks = "revision" if is_revision else "name"
        return f"the hub answers 404: there is none of this {lacks}; look it up on the hub"
    if status == 429:
        return (
            "the hub answers 429, too many requests, however often it is asked; wait some "
            f"minutes, or set HF_TOKEN, which may ask more often; {AGAIN}"
        )
    if status is not None:
        return f"the hub answers {status}, a fault of its own; {AGAIN}"
    for one in chain:
        if is_broken_transfer(one):
            reason = " ".join(str(one).split())[:120]
            return f"the transfer broke off ({reason}); {AGAIN}"
    return None


def is_broken_transfer(error: BaseException) -> bool:
    """Whether the hub answered, and then sent less than it had announced."""
    import httpx2

    is_short = isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError)
    return is_short or "Consistency check failed" in str(error)
