"""The whole campaign: ``python -m tests.campaign [PATTERN]``.

Tries every case (or those whose names match), prints what did not end in a clear line, and the sum:
tried, clear, traceback, accepted, hung. Ends with 1 unless all are clear.
"""

import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaign.cases import all_cases
from tests.campaign.trying import ACCEPTED, CLEAR, HUNG, OTHER, TRACEBACK, build_world, outcome


def main() -> None:
    """Tries the cases."""
    pattern = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    cases = [case for case in all_cases() if pattern.search(case.name)]
    counts: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        build_world(world)
        for case in cases:
            kind, text = outcome(case, world)
            counts[kind] += 1
            if kind != CLEAR:
                print(f"{kind}: {case.name}: {' '.join(case.command)[:200]}\n{text}\n", flush=True)
    print(f"tried {len(cases)} in {time.monotonic() - start:.0f} s")
    for kind in (CLEAR, TRACEBACK, ACCEPTED, HUNG, OTHER):
        print(f"{kind:12} {counts[kind]}")
    sys.exit(counts[CLEAR] != len(cases))


if __name__ == "__main__":
    main()
