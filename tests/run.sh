#!/usr/bin/env bash
# All tests, or those that pytest is pointed at: tests/run.sh tests/core -k ties
# tests/run.sh --campaign: bad inputs, all of them, and fuzzing of the readers at length (half an hour)
# tests/run.sh --checks: no tests, but form, faults and types of all code; the first that fails ends it.
. "$(dirname "$0")/../core/environment.sh"
install_requirements requirements-dev.txt
install_requirements requirements-ray.txt
if [ "${1:-}" = --checks ]; then
    ruff format --check --quiet . || { echo "error: ruff format . would change files: ruff format --diff . shows them" >&2; exit 1; }
    ruff check --quiet .
    exec mypy
fi
if [ "${1:-}" = --campaign ]; then
    python -m tests.campaign "${@:2}"
    CAMPAIGN_EXAMPLES="${CAMPAIGN_EXAMPLES:-20000}" exec python -m pytest -q tests/campaign/test_fuzz.py
fi
exec python -m pytest -q "${@:-tests}"
