"""What a progress line is told while DuckDB reads."""

from __future__ import annotations

import threading

import pytest

from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.workspace import open_workspace


def test_progress_is_told_while_a_query_runs(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, float]] = []
    threads = threading.active_count()
    with open_workspace(IngestSettings(), progress=lambda *state: told.append(state)) as workspace:
        workspace.doing = "reading"
        for _ in range(1000):  # of a tenth of a second; one tells nothing where it ends before it is asked
            workspace.number("SELECT count(*) FROM range(100_000_000) WHERE range % 7 = 3")
            if told:
                break
    assert {what for what, _ in told} == {"reading"}
    assert all(0 <= percent <= 100 for _, percent in told)
    assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_without_a_listener_there_is_no_thread() -> None:
    threads = threading.active_count()
    with open_workspace(IngestSettings()):
        assert threading.active_count() == threads
