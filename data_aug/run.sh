#!/usr/bin/env bash
# Training groups from judgments and candidates.   data_aug/run.sh CONFIG [key=value …]
. "$(dirname "$0")/../core/environment.sh"
exec python -m data_aug.build "$@"
