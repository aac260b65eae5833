"""`python -m faults.soak --minutes 10 --seed 7 [--json]`: exit code 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from .run import soak


def main() -> int:
    """Run the soak; the report goes to standard output."""
    parser = argparse.ArgumentParser(prog="soak", description="Everything fails at random; nothing may be lost.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to replay its schedule")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1, 1_000_000) if asked.seed is None else asked.seed
    logs = Path(tempfile.mkdtemp(prefix="payfirst-soak-"))
    outcome = asyncio.run(
        soak(seed=seed, minutes=asked.minutes, say=lambda line: print(line, file=sys.stderr, flush=True), logs=logs)
    )
    print(outcome.report())
    if asked.json:
        print(json.dumps(outcome.as_json()))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
