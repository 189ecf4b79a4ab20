"""Going on against training anew, on a small shop whose newest items nobody had yesterday."""

from __future__ import annotations

import csv
import gzip
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

N_EVENTS, N_ITEMS = 3000, 40


@pytest.mark.slow
def test_all_ways(tmp_path: Path, script: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    draw = random.Random(3)
    events = [["user", "item", "timestamp"]]
    for time in range(N_EVENTS):
        newest = N_ITEMS if time > 0.85 * N_EVENTS else N_ITEMS - 4
        events.append([f"u{draw.randrange(200)}", f"i{draw.randrange(newest)}", str(1_500_000_000 + time)])
    items = [["item", "domain", "title"]]
    items += [[f"i{n}", ("food", "tools")[n % 2], f"thing {n % 7} {n % 5}"] for n in range(N_ITEMS)]
    for name, rows in (("interactions", events), ("items", items)):
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt", newline="") as file:
            csv.writer(file).writerows(rows)
    arguments = ["--hidden", "8", "--epochs", "1", "--epochs-anew", "2"]
    done = script("every_day.py", str(tmp_path), str(tmp_path / "work"), *arguments)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode()
    assert "items: 36 as they were, 4 new, 0 gone" in printed
    assert f"refitted on {0.9 * N_EVENTS:,.0f} interactions, all before the test" in printed
    way = "(?:as it was|yesterday|(?:going on|anew)(?:, refitted)?)"
    runs = re.findall(rf"^({way}) +(\d+) epochs, best +(\d+)", printed, re.MULTILINE)
    epochs, best = {name: n for name, n, _ in runs}, {name: n for name, _, n in runs}
    assert {name: n for name, n in epochs.items() if "refitted" not in name} == {
        "yesterday": "2",
        "going on": "1",
        "anew": "2",
    }
    assert epochs["anew, refitted"] == best["anew"]
    assert epochs["going on, refitted"] == "1"
    targets = re.findall(rf"^(?:food|tools) +{way} +(\d+) targets", printed, re.MULTILINE)
    assert len(targets) == 10
    assert sum(map(int, targets)) / 5 == 0.1 * N_EVENTS  # all of them: every user was there before
    assert printed.count(" minus ") == 10
