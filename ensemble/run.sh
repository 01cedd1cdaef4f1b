#!/usr/bin/env bash
# Weights, fused runs, submission, results, report.   ensemble/run.sh CONFIG [key=value …]
. "$(dirname "$0")/../core/environment.sh"
exec python -m ensemble.run "$@"
