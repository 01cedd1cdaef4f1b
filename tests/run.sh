#!/usr/bin/env bash
# All tests, or those that pytest is pointed at: tests/run.sh tests/core -k ties
. "$(dirname "$0")/../core/environment.sh"
install_requirements requirements-dev.txt
exec python -m pytest -q "${@:-tests}"
