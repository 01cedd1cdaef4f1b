#!/usr/bin/env bash
# Cross-encoders and reranked runs.   [PROCESSES=N] ranking/run.sh CONFIG [key=value …]
# One process a GPU; on a CPU one, which uses all cores. Across machines, start torchrun or DeepSpeed's launcher yourself.
. "$(dirname "$0")/../core/environment.sh"
PROCESSES="${PROCESSES:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}"
[ "$PROCESSES" -gt 1 ] || exec python -m ranking.rank "$@"
exec torchrun --standalone --nproc-per-node "$PROCESSES" -m ranking.rank "$@"
