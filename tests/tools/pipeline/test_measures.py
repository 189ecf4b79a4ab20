from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate
from llmcdsr_tools.pipeline.measures import measure, read_measures, without_nan, write_measures
from llmcdsr_tools.train.training_run import TrainResult


def same(found: Any, expected: Any) -> bool:
    """Equal, nan being equal to nan."""
    return repr(found) == repr(expected)


def test_measures_of_a_run(small_world: Any, small_run: TrainResult) -> None:
    found = measure(small_run.run, small_world.folder)
    test = evaluate([small_run.run], small_world.folder, "test", "last")
    valid = evaluate([small_run.run], small_world.folder, "valid", "every")
    assert same(found.test, test.measures)
    assert same(found.valid, valid.measures)
    assert list(found.verdicts) == verdicts(test, "model", BASELINES)
    assert {m.scorer for m in found.test} == {"model", *BASELINES}


def test_what_is_written_is_read(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    found = measure(small_run.run, small_world.folder)
    first = replace(found.test[0], hr10=math.nan, ndcg10=math.nan)
    found = replace(found, test=(first, *found.test[1:]))
    write_measures(tmp_path / "m.json", found)
    content = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))  # strict: no nan
    assert content["test"][0]["hr10"] is None
    assert same(read_measures(tmp_path / "m.json"), found)


@pytest.mark.parametrize("content", ["", "{}", '{"test": [1], "valid": [], "verdicts": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.json: cannot be read as measures"):
        read_measures(tmp_path / "m.json")


def test_json_knows_no_nan() -> None:
    assert without_nan({"a": [math.nan, math.inf, 1.0], "b": ("x", None)}) == {
        "a": [None, None, 1.0],
        "b": ["x", None],
    }
