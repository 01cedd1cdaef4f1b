#!/usr/bin/env bash
# Passages, indexes, vectors, runs of every source, the hybrid.   retrieval/run.sh CONFIG [key=value …]
. "$(dirname "$0")/../core/environment.sh"
exec python -m retrieval.search "$@"
