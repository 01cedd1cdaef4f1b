#!/usr/bin/env bash
# Cross-encoders and reranked runs.   [PROCESSES=N] ranking/run.sh CONFIG [key=value …]
# One process a GPU, started by accelerate; on a CPU one, which uses all cores and needs no launcher.
# Several machines, or GPUs of your choice: an accelerate configuration, either the default one that
# `accelerate config` writes or ACCELERATE_CONFIG_FILE=FILE; the same command on each machine. Of its
# entries those of where to run count: number format and DeepSpeed are the ranker's own settings.
. "$(dirname "$0")/../core/environment.sh"
DEFAULT="${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/accelerate/default_config.yaml"
FILE="${ACCELERATE_CONFIG_FILE:-}"
[ -n "$FILE" ] || [ ! -f "$DEFAULT" ] || FILE="$DEFAULT"
if [ -n "$FILE" ]; then
    PROCESSES="${PROCESSES:-$(sed -n 's/^num_processes: *\([0-9]*\) *$/\1/p' "$FILE")}"
    WHERE=(--config_file "$FILE" ${PROCESSES:+--num_processes "$PROCESSES"})
else
    PROCESSES="${PROCESSES:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}"
    WHERE=(--num_processes "$PROCESSES" --num_machines 1 --main_process_port 0)
fi
[ "${PROCESSES:-2}" -gt 1 ] || exec python -m ranking.rank "$@"
# With engine=ray these processes only train; then one, on the first machine, lets the cluster score.
ENGINE="$(python -m core.config "$@" --engine)"
MACHINE="$([ -z "$FILE" ] || sed -n 's/^machine_rank: *\([0-9]*\) *$/\1/p' "$FILE")"
# --multi_gpu also starts processes on CPUs, and keeps accelerate from its own DeepSpeed and FSDP
accelerate launch "${WHERE[@]}" --multi_gpu --mixed_precision no --dynamo_backend no -m ranking.rank "$@"
if [ "$ENGINE" = ray ] && [ "${MACHINE:-0}" = 0 ]; then python -m ranking.rank "$@"; fi
