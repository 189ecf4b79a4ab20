"""Memory and speed of `llmcdsr score` over many short lines: ``python benchmarks/score_memory.py``.

First 1 and N processes score the same lines in turn; then N processes score all lines once, while the
resident memory of the command and of its processes is added up. Memory-mapped pages that they share are
counted in each. Everything goes to a temporary folder. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.recommender import Recommender

CHUNK = 100_000
N_MARKS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--speed-lines", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="of the speed measure; 0 leaves it out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("-k", default="3")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    catalogue = Recommender.load(options.model, backend="numpy").items
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.rounds:
            write_histories(folder / "some.jsonl", options.speed_lines, catalogue, options.seed)
            measure_speed(folder, options)
        if options.lines:
            write_histories(folder / "all.jsonl", options.lines, catalogue, options.seed)
            measure_memory(folder, options)


def write_histories(path: Path, n_lines: int, catalogue: Catalogue, seed: int) -> None:
    """Histories of one to three random items."""
    rng = np.random.default_rng(seed)
    ids = [json.dumps(item) for item in catalogue.ids]
    with path.open("w", encoding="utf-8") as out:
        for start in range(0, n_lines, CHUNK):
            n = min(CHUNK, n_lines - start)
            lengths = rng.integers(1, 4, size=n).tolist()
            items = rng.integers(len(ids), size=(n, 3)).tolist()
            for i in range(n):
                history = ", ".join(ids[item] for item in items[i][: lengths[i]])
                out.write(f'{{"user": "{start + i}", "history": [{history}]}}\n')
    print(f"{n_lines:,} lines, {path.stat().st_size / 2**20:,.0f} MiB", flush=True)


def start_scoring(
    source: Path, output: Path, processes: int, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    driver = "from llmcdsr_lite.cli.commands import cli; cli()"
    arguments = ("score", source, "--model", options.model, "-o", output, "-k", options.k)
    return subprocess.Popen([sys.executable, "-c", driver, *arguments, "--processes", str(processes)])


def measure_speed(folder: Path, options: argparse.Namespace) -> None:
    seconds: dict[int, list[float]] = {1: [], options.processes: []}
    for _ in range(options.rounds):
        for processes, times in seconds.items():
            started = time.perf_counter()
            process = start_scoring(folder / "some.jsonl", folder / f"{processes}.jsonl", processes, options)
            if process.wait():
                raise SystemExit("scoring failed")
            times.append(time.perf_counter() - started)
    for processes, times in seconds.items():
        rate = options.speed_lines / min(times)
        name = f"{processes} process{'es' * (processes > 1)}"
        print(f"{name}: {rate:,.0f} lines a second, start included (best of {len(times)})")
    pairs = [one / more for one, more in zip(seconds[1], seconds[options.processes], strict=True)]
    print(f"ratio {statistics.median(pairs):.2f} (median of {len(pairs)}: {pairs!r:.60})")
    same = (folder / "1.jsonl").read_bytes() == (folder / f"{options.processes}.jsonl").read_bytes()
    print(f"outputs are {'the same bytes' if same else 'not the same bytes'}", flush=True)


def measure_memory(folder: Path, options: argparse.Namespace) -> None:
    output = folder / "all.out.jsonl"
    started = time.perf_counter()
    process = start_scoring(folder / "all.jsonl", output, options.processes, options)
    peaks: dict[int, int] = {}  # of each process, KiB
    marks = 1
    while process.poll() is None:
        for pid in (process.pid, *children_of(process.pid)):
            peaks[pid] = max(peaks.get(pid, 0), peak_of(pid))
        done = records_done(output)
        if done >= marks * options.lines / N_MARKS:
            marks = int(done * N_MARKS / options.lines) + 1
            print(f"{done:>12,} lines: peaks add up to {sum(peaks.values()) / 2**10:,.0f} MiB", flush=True)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit("scoring failed")
    seconds = time.perf_counter() - started
    each = ", ".join(f"{peak / 2**10:,.0f}" for peak in peaks.values())
    print(f"peak resident memory {sum(peaks.values()) / 2**10:,.0f} MiB: {each} MiB (command, its processes)")
    print(f"{seconds:,.0f} s, {options.lines / seconds:,.0f} lines a second")


def records_done(output: Path) -> int:
    try:
        state = json.loads(output.with_name(output.name + ".partial.json").read_text())
    except OSError:
        return 0
    return int(state["summary"]["records"])


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def peak_of(pid: int) -> int:
    """Largest resident size so far, KiB; 0 of a process that is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
