#!/usr/bin/env bash
# A collection to a validated submission.
#
#   ./run_all.sh [CONFIG] [key=value …] [--plan] [--rehearse] [--from STAGE] [--until STAGE]
#                [--force STAGE]
#
# CONFIG is configs/demo.yaml without it: the embedded collection and models, ten minutes
# on two cores. STAGE is one of retrieval, data_aug, ranking, ensemble. Run again, finished work is
# found; a stopped run goes on where it was. --rehearse tries all of it in small, in minutes, before
# the real run: tiny models where the real ones are not at hand, a few queries and passages, all
# stages and rounds, in a folder of its own; it ends with what it tried and what it could not.
. "$(dirname "$0")/core/environment.sh"

STAGES=(retrieval data_aug ranking ensemble)
CONFIG=configs/demo.yaml
GIVEN_CONFIG=
SETTINGS=()
PLAN=
REHEARSE=
FIRST=retrieval
LAST=ensemble
FORCE=

stage() {                     # VALUE OPTION: a stage's name, or an error
    if [[ " ${STAGES[*]} " != *" $1 "* ]]; then
        echo "error: $2: found '$1', expected one of ${STAGES[*]}" >&2
        exit 2
    fi
    echo "$1"
}

while [ $# -gt 0 ]; do
    case "$1" in
        --plan)    PLAN=yes; shift ;;
        --rehearse) REHEARSE=yes; shift ;;
        --from)    FIRST=$(stage "${2:-}" --from); shift 2 ;;
        --until)   LAST=$(stage "${2:-}" --until); shift 2 ;;
        --force)   FORCE=$(stage "${2:-}" --force); shift 2 ;;
        --help|-h) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit ;;
        -*)        echo "error: unknown option $1; see --help" >&2; exit 2 ;;
        *=*)       SETTINGS+=("$1"); shift ;;
        *)         if [ "$GIVEN_CONFIG" ]; then
                       echo "error: found a second configuration, $1, after $GIVEN_CONFIG; one run takes one (settings are key=value)" >&2
                       exit 2
                   fi
                   CONFIG="$1"; GIVEN_CONFIG="$1"; shift ;;
    esac
done

if [ "$PLAN" ] && [ "$FORCE" ]; then
    echo "error: --plan changes nothing, so it goes with no --force $FORCE; leave one of them out" >&2
    exit 2
fi

SELECTED=()                   # the stages from FIRST to LAST
selecting=
for name in "${STAGES[@]}"; do
    if [ "$name" = "$FIRST" ]; then selecting=yes; fi
    if [ "$selecting" ]; then SELECTED+=("$name"); fi
    if [ "$name" = "$LAST" ]; then selecting=; fi
done
if [ "$selecting" ]; then
    echo "error: --until $LAST comes before --from $FIRST; the stages in order: ${STAGES[*]}" >&2
    exit 2
fi

run() {                       # STAGE: runs it if it is selected
    if [[ " ${SELECTED[*]} " == *" $1 "* ]]; then "./$1/run.sh" "$CONFIG" "${SETTINGS[@]}"; fi
}

# A rehearsal runs a small configuration in place of the given one, and tells how it went at the end.
if [ "$REHEARSE" ]; then
    REHEARSED=("$CONFIG" "${SETTINGS[@]}")
    python -m core.rehearsal "${REHEARSED[@]}"
    CONFIG=$(python -m core.rehearsal "${REHEARSED[@]}" --path)
    SETTINGS=()
    trap 'python -m core.rehearsal "${REHEARSED[@]}" --report $?' EXIT
fi

# 0. What there is to do: done, stale and why, what the rest will take here. Seconds.
if [ "$PLAN" ]; then
    exec python -m ensemble.plan "$CONFIG" "${SETTINGS[@]}" --from "$FIRST" --until "$LAST"
fi
if [ "$FORCE" ]; then python -m ensemble.plan "$CONFIG" "${SETTINGS[@]}" --force "$FORCE"; fi

# 1. Retrieval: BM25 and dense runs of depth 1000, hybrid with one weight chosen on dev.
#    Encoding takes the time: 25 passages/s on two cores. All GPUs do it; jobs=N makes other steps
#    beside it, and several at once.
run retrieval

# With rounds of pseudo-labels, 2 to 4 once a round: each learns from the systems of the round
# before, and the last makes the submission.
GIVEN=("${SETTINGS[@]}")
LAST_ROUND=$(python -m core.config "$CONFIG" "${SETTINGS[@]}" --last-round)
for ((round = 0; round <= LAST_ROUND; round++)); do
    SETTINGS=("${GIVEN[@]}")
    if [ "$round" -lt "$LAST_ROUND" ]; then SETTINGS+=("round=$round"); fi

    # 2. Training groups: judged pairs, negatives drawn from the candidates, Q2Q2D, pseudo-labels.
    #    Seconds.
    run data_aug

    # 3. Ranking: cross-encoders are trained, then score the candidates. Most of the time; the plan
    #    says how much.
    run ranking

    # 4. Ensemble: weights, fused runs, submission and its check, results, report. Seconds.
    run ensemble
done
