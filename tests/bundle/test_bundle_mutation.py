"""Damaged and hostile bundles, hundreds or thousands: an error that says what is wrong, or right answers.

``LLMCDSR_MUTATIONS=20000 pytest tests/bundle/test_bundle_mutation.py`` runs more of them (`mutation`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mutation import FIRST, MANY, N_CASES, run_cases

TESTS = Path(__file__).parents[1]
DEMO = TESTS.parent / "models" / "demo"


def test_every_mutant_is_refused_or_answers_rightly(tmp_path: Path) -> None:
    outcomes = run_cases(TESTS / "bundle_mutants.py", N_CASES, DEMO, tmp_path)
    assert len(outcomes) == N_CASES
    bad = [
        f"{case}: {one}"
        for case, one in enumerate(outcomes, FIRST)
        if not one.startswith(("refused", "right"))
    ]
    assert bad == []
    # and the mutants are no mere noise: many get far, and all kinds of files and checks are met
    ends = Counter(one.split(":")[0] for one in outcomes)
    assert min(ends["refused"], ends["right"]) > N_CASES / 20
    if N_CASES < MANY:
        return
    reasons = [
        "SHA-256",
        "bytes, expected",
        "cannot be read as a NumPy array",
        "not valid JSON",
        "not finite",
    ]
    reasons += ["is not the graph", "expected no more than"]
    for reason in reasons:
        assert any(reason in one for one in outcomes if one.startswith("refused")), reason


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("pass", "fine"),
        ("import os; os.abort()", "died: status -6"),
        ("import ctypes; ctypes.string_at(0)", "died: status -11"),
        ("mutation.alarm(0.2)\nwhile True: pass", "died: hangs"),
        ("import sys; sys.exit(3)", "died: status 3"),
        ("raise ValueError('five')", "died: status 1: Traceback"),
        ("bytearray(6 << 30)", "died: status 1: Traceback"),
    ],
)
def test_a_case_that_kills_its_process_is_found(tmp_path: Path, what: str, expected: str) -> None:
    script = tmp_path / "script.py"
    indented = what.replace("\n", "\n        ")
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import mutation
mutation.limit()
for case in range(int(sys.argv[1]), int(sys.argv[2])):
    mutation.alarm()
    if case == 2:
        {indented}
    mutation.tell(case, "fine")
"""
    )
    outcomes = run_cases(script, 5, processes=1, start=0)
    assert [one for i, one in enumerate(outcomes) if i != 2] == ["fine"] * 4
    assert outcomes[2].startswith(expected)
