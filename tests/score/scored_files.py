"""What the tests of scoring ask of files and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcdsr_lite.score import ScoreSettings

SETTINGS = ScoreSettings(k=3, batch_size=4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parsed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
