"""Processes of this machine that do one thing after another, and end with the one that began them.

Each is a new interpreter (spawn): a process that runs Java or holds a GPU cannot be copied.
"""

import contextlib
import copy
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection
from typing import Any

from core import console
from core.errors import InputError

SPAWN = multiprocessing.get_context("spawn")
END_SECONDS = 10.0  # that a process is given to end by itself

own_number = 0  # of this process among its team's


class Worker:
    """One process: ``begin`` gives it work, ``take`` waits for what came of it.

    ``doing`` names the work that it has.
    """

    def __init__(self, number: int):
        self.pipe, other_end = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(other_end, number))
        self.process.start()
        other_end.close()
        self.doing: str | None = None

    def begin(self, doing: str, function: Callable, arguments: tuple) -> None:
        """Lets it call a function, which it imports by name, with arguments that are copied."""
        self.doing = doing
        with contextlib.suppress(BrokenPipeError):  # it has died: ``take`` says so
            self.pipe.send((function, arguments))

    def take(self) -> Any:
        """What the function gave. Raises what it raised, InputError where the process died."""
        doing, self.doing = self.doing, None
        try:
            is_good, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise InputError(
                f"{doing}: its process ended without a word (exit code "
                f"{self.process.exitcode}; -9 is most often memory that ran out); run again, what "
                "is finished is kept; with less at once (jobs, retrieval.dense.processes) it needs "
                "less memory"
            ) from None
        if not is_good:
            raise value
        return value


class Team:
    """At most ``count`` workers, each begun when there is work for it."""

    def __init__(self, count: int):
        self.count = count
        self.workers: list[Worker] = []
        self.close = weakref.finalize(self, end, self.workers)

    @property
    def idle(self) -> int:
        """How many more things can be begun now."""
        return self.count - len(self.busy)

    @property
    def busy(self) -> list[Worker]:
        """Those that have work."""
        return [worker for worker in self.workers if worker.doing is not None]

    def begin(self, doing: str, function: Callable, *arguments: Any) -> None:
        """Gives work to an idle one; there must be one."""
        waiting = [worker for worker in self.workers if worker.doing is None]
        if not waiting:
            waiting = [Worker(len(self.workers))]
            self.workers += waiting
        waiting[0].begin(doing, function, arguments)

    def each(self, function: Callable, items: Mapping[str, tuple]) -> Iterator[Any]:
        """What a function gives for each item's arguments, as it is ready.

        Where one fails the processes are ended, and its error is raised.
        """
        try:
            for name, arguments in items.items():
                self.begin(name, function, *arguments)
                while not self.idle:
                    for _, result in finished(self):
                        yield result
            while self.busy:
                for _, result in finished(self):
                    yield result
        except BaseException:
            self.close()
            raise


def finished(*teams: Team) -> Iterator[tuple[str, Any]]:
    """Waits for the next; (what was done, what it gave) of all that are ready.

    Raises the error of one that failed; the others are still at work.
    """
    of_pipe: dict[Any, Worker] = {}
    for team in teams:
        for worker in team.busy:
            of_pipe[worker.pipe] = worker
    for pipe in connection.wait(list(of_pipe)):
        worker = of_pipe[pipe]
        doing = worker.doing or ""
        yield doing, worker.take()


def end(workers: list[Worker]) -> None:
    """Ends processes, also in the middle of their work."""
    for worker in workers:
        worker.pipe.close()  # which ends those that wait for work
        if worker.doing is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
    workers.clear()


def serve(pipe: connection.Connection, number: int) -> None:
    """The life of a worker: calls what it is sent, until nobody sends any more.

    ``number`` counts the workers of a team; ``worker_number`` tells it to the functions.
    """
    global own_number
    own_number = number
    console.show_bars = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*arguments)))
        except BaseException as error:
            send_error(pipe, error)


def worker_number() -> int:
    """Which of its team this process is; 0 in one that is nobody's worker."""
    return own_number


def send_error(pipe: connection.Connection, error: BaseException) -> None:
    """Sends the error with the lines that it came from, or their text where it can't be copied."""
    lines = "".join(traceback.format_exception(error))
    if not isinstance(error, InputError):
        error.add_note(lines)
    try:
        copy.deepcopy(error)  # one that its arguments do not make again would fail at the other end
        pipe.send((False, error))
    except Exception:
        pipe.send((False, RuntimeError(lines)))


def end_with_parent() -> None:
    """Ends this process as soon as the one that began it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
