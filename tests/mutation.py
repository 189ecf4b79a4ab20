"""Runs numbered cases in processes of their own and tells how each of them ended.

A case's number is its seed. The cases of a day are others than those of the day before: `FIRST` is the
first one's number, which pytest prints at its end; ``LLMCDSR_FIRST_MUTATION`` sets it to see that day's
again. ``LLMCDSR_MUTATIONS`` is how many there are.

A script that is run as ``script FIRST STOP ...`` prints a line for each case, ``case outcome``; it calls
`limit` first, and `alarm` before each case. Where it dies, the case that it was at has killed it, and
another process goes on with the next.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

FIRST = int(os.environ.get("LLMCDSR_FIRST_MUTATION", date.today().toordinal() * 100_000))
os.environ["LLMCDSR_FIRST_MUTATION"] = str(FIRST)  # the workers of pytest-xdist do not look for themselves
N_CASES = int(os.environ.get("LLMCDSR_MUTATIONS", 100))
MANY = 2000  # of so many, all kinds can be expected
MEMORY = 4 << 30  # bytes of address space, of which onnxruntime and NumPy take 1 GB
SECONDS = 20  # a case; a killed one is a hang


def run_cases(
    script: Path, n: int, *arguments: str | Path, processes: int = 2, start: int = FIRST
) -> list[str]:
    """Outcome of the n cases from `start` on: what the script says of it, or ``died: ...``."""
    bounds = [start + n * i // processes for i in range(processes + 1)]
    with ThreadPoolExecutor(processes) as pool:
        parts = pool.map(lambda i: _run(script, bounds[i], bounds[i + 1], arguments), range(processes))
        return [outcome for part in parts for outcome in part]


def _run(script: Path, first: int, stop: int, arguments: tuple[str | Path, ...]) -> list[str]:
    outcomes: list[str] = []
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    while first < stop:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, str(first), str(stop), *arguments],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            env=environment,
            check=False,
        )
        for line in done.stdout.splitlines():
            number, outcome = line.split(" ", 1)
            assert int(number) == first, done.stdout[-500:]
            outcomes.append(outcome)
            first += 1
        if first < stop:
            how = "hangs" if done.returncode == -signal.SIGALRM else f"status {done.returncode}"
            outcomes.append(f"died: {how}: {done.stderr[-500:]}")
            first += 1
    return outcomes


def limit() -> None:
    """Bound the memory of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def alarm(seconds: float = SECONDS) -> None:
    """Let this process be killed if the case takes longer."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def tell(case: int, outcome: str) -> None:
    """Print the outcome of a case, on one line."""
    print(case, " ".join(outcome.encode("ascii", "backslashreplace").decode().split()), flush=True)
