# Sourced by every script: makes .venv on first use, installs what requirements.txt pins, and activates it.
# Only Python 3.11 or newer is needed; nothing is compiled. Another interpreter: PYTHON=python3.12 ./run_all.sh
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python3}"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $("$PYTHON" --version 2>&1) found, Python 3.11 or newer is needed (set PYTHON=…)" >&2; exit 2; }

install_requirements() {      # FILE: installs it unless this very file was installed before
    local stamp="$ROOT/.venv/.installed-$1"
    cmp -s "$ROOT/$1" "$stamp" && return
    echo "installing $1 into .venv (once, a few minutes)" >&2
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$1"
    cp "$ROOT/$1" "$stamp"
}

[ -x "$ROOT/.venv/bin/python" ] || "$PYTHON" -m venv "$ROOT/.venv"
install_requirements requirements.txt
export PATH="$ROOT/.venv/bin:$PATH" VIRTUAL_ENV="$ROOT/.venv" PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=true
cd "$ROOT"
