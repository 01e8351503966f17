"""Commands of this project in processes of their own, as people run them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


# What a process says of itself: seconds from its beginning to its end, and the largest memory that it held.
PROBE = """
import json, sys, time
start = time.perf_counter()
from lavcap.commands import main
from lavcap.workers import most_resident
status = main(sys.argv[1:])
print(json.dumps({"seconds": time.perf_counter() - start, "MiB": most_resident()}), file=sys.stderr)
sys.exit(status)
"""


def run_command(*words: object) -> dict[str, Any]:
    """Run `lavcap`; its `seconds`, and the `MiB` of its own process.

    Raises:
        ValueError: it failed.
    """
    return json.loads(run_python("-c", PROBE, *words).stderr.splitlines()[-1])


def run_python(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments.

    Args:
        environment: variables beside those of this process.

    Raises:
        ValueError: it failed.
    """
    command: Sequence[str] = [sys.executable, *map(str, words)]
    variables = os.environ | {"HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise ValueError(f"{' '.join(command[-4:])} failed: {done.stderr.strip()[-500:]}")
    return done
