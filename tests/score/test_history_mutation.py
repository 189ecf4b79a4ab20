"""Damaged and hostile history files, by the hundreds: an error that says what is wrong, or right answers.

``LLMCDSR_MUTATIONS=20000 pytest tests/score/test_history_mutation.py`` runs more of them (`mutation`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mutation import FIRST, N_CASES, run_cases


def test_every_history_file_is_refused_or_scored_rightly(bundle_folder: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "history_mutants.py"
    outcomes = run_cases(script, N_CASES, bundle_folder, tmp_path)
    assert len(outcomes) == N_CASES
    ends = Counter(one.split(":")[0] for one in outcomes)
    bad = [
        f"{case}: {one}"
        for case, one in enumerate(outcomes, FIRST)
        if not one.startswith(("refused", "skipped", "right"))
    ]
    assert bad == []
    assert min(ends["refused"], ends["skipped"], ends["right"]) > N_CASES / 20
