"""Stage `evaluate` of the pipeline: all measures of a bundle in one JSON file, for the report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.measures import Measure
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate


@dataclass(frozen=True)
class Measures:
    """What is measured of a bundle, beside baselines.

    Parameters
    ----------
    test : tuple of Measure
        The last item of each test history is the target.
    valid : tuple of Measure
        Every item of a validation history that training has not seen is.
    verdicts : tuple of str
        Whether the bundle is above the best baseline on test, for each domain, in words.
    """

    test: tuple[Measure, ...]
    valid: tuple[Measure, ...]
    verdicts: tuple[str, ...]


def measure(model: Path, dataset: Path) -> Measures:
    """Measure a bundle, as it answers, or a training run.

    Parameters
    ----------
    model : Path
        Folder of a bundle, or of a training run.
    dataset : Path
        Data set folder.
    """
    test, valid = evaluate([model], dataset, "test"), evaluate([model], dataset, "valid")
    return Measures(test.measures, valid.measures, tuple(verdicts(test, "model", BASELINES)))


def write_measures(path: Path, measures: Measures) -> None:
    """Write measures as JSON, atomically; null stands for nan."""
    with atomic_file(path) as temporary:
        content = json.dumps(without_nan(asdict(measures)), indent=1, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def read_measures(path: Path) -> Measures:
    """Read back what `write_measures` wrote.

    Raises
    ------
    DataError
        If the file cannot be read or is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        test, valid = (tuple(map(_read, content[name])) for name in ("test", "valid"))
        return Measures(test, valid, tuple(content["verdicts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as measures: {error}") from None


def _read(entry: dict[str, Any]) -> Measure:
    values: dict[str, Any] = {
        f.name: math.nan if entry[f.name] is None else entry[f.name] for f in fields(Measure)
    }
    return Measure(**values)


def without_nan(value: Any) -> Any:
    """JSON-able values with None for what JSON does not know: nan, and what is infinite."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
