"""The programs of docs/cluster.md, run as they stand on engines that are started here."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundle_loads import BundleLoads

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score.scorer import Scorer
from llmcdsr_lite.score.spark import recommend_dataframe

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "demo"
DOCS = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
N_FILES = 6
# Batches and tasks so small that every worker gets many of them.
MANY_TASKS = (
    "--conf spark.sql.execution.arrow.maxRecordsPerBatch=16 --conf spark.sql.files.maxPartitionBytes=8000 "
    "--conf spark.sql.files.openCostInBytes=0 pyspark-shell"
)


def engine(name: str, *packages: str) -> Any:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    why = f"not installed: {', '.join(missing)} (make test-cluster installs what is needed)"
    if name == "spark" and not missing and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        missing, why = ["java"], "Spark needs Java, and there is none"
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=why))


engines = pytest.mark.parametrize(
    "name", [engine("ray", "ray", "pyarrow"), engine("spark", "pyspark", "pyarrow", "pandas")]
)


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)
    (found,) = (text for text in blocks if containing in text)
    return found


def rows() -> list[dict[str, Any]]:
    """Users with unknown items, without any, with a domain of their own, and some that are wrong."""
    ids = Recommender.load(MODEL, backend="numpy").items.ids
    rng = np.random.default_rng(3)
    made: list[dict[str, Any]] = []
    for n in range(600):
        history = rng.choice(ids, rng.integers(1, 9)).tolist()
        made.append({"user": f"u{n}", "history": history, "domain": "groceries" if n % 4 == 1 else None})
        if n % 7 == 2:
            history.insert(1, "nowhere")
    made[30]["history"] = []
    made[31]["history"] = ["nowhere"]
    made[40]["history"] = None
    made[240]["history"] = [ids[0], None]
    made[441]["domain"] = "books"
    return made


ERRORS = {
    "u40": "field 'history' must be a list of item ids, found None",
    "u240": "field 'history' must be a list of item ids, found [",
    "u441": "domain is 'books', expected 'groceries' or 'kitchenware'",
}


class Job:
    """A folder in which the documented command can be run."""

    def __init__(self, name: str, folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.name, self.folder = name, folder
        (folder / f"{name}_score.py").write_text(
            block("python", f"{name}.init" if name == "ray" else "SparkS")
        )
        (folder / "models").symlink_to(ROOT / "models")
        (folder / "histories").mkdir()
        schema = pa.schema(
            {"user": pa.string(), "history": pa.list_(pa.string()), "domain": pa.string()}
        )  # told: a file may have no domain at all
        self.rows = rows()
        for part in range(N_FILES):
            table = pa.Table.from_pylist(self.rows[part::N_FILES], schema)
            parquet.write_table(table, folder / "histories" / f"{part}.parquet")
        self.loads = BundleLoads(MODEL, folder / "hook")

    def run(self, without: str = "") -> subprocess.CompletedProcess[str]:
        command = block("sh", f"{self.name}_score.py").replace(without, "")
        program, *arguments = shlex.split(command)
        assert program == "python"
        environment = {
            **self.loads.environment,
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": MANY_TASKS,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@engines
def test_the_program_answers_as_a_recommender(name: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    job = Job(name, tmp_path)
    done = job.run()
    assert done.returncode == 0, done.stderr
    answers = parquet.read_table(tmp_path / "recommendations").to_pylist()
    by_user = {answer["user"]: answer for answer in answers}
    assert len(answers) == len(by_user) == len(job.rows)
    recommender = Recommender.load(MODEL)
    for row in job.rows:
        found = by_user[row["user"]]
        assert list(found) == ["user", "items", "scores", "unknown", "fallback", "error"]
        if row["user"] in ERRORS:
            assert found["items"] == found["scores"] == []
            assert re.fullmatch(rf"row \d+ of the batch, user '{row['user']}': .*", found["error"])
            assert ERRORS[row["user"]] in found["error"]
            continue
        expected = recommender.recommend(row["history"], domain=row["domain"] or "kitchenware")
        assert found["items"] == [item.id for item in expected]
        assert found["scores"] == pytest.approx([item.score for item in expected], abs=1e-5)
        assert (found["unknown"], found["fallback"]) == (len(expected.unknown_items), expected.fallback)
        assert found["error"] is None
    assert Counter(answer["fallback"] for answer in answers)[True] == 2
    loads = job.loads.count()
    assert 1 <= len(loads) <= 2  # workers
    assert set(loads.values()) == {1}
    if name == "spark":
        n_tasks = len(list((tmp_path / "recommendations").glob("*.parquet")))
        assert n_tasks > len(loads)


@engines
def test_a_bad_row_stops_the_program(name: str, tmp_path: Path) -> None:
    done = Job(name, tmp_path).run(without="--on-error skip")
    assert done.returncode != 0
    named = re.findall(r"DataError: row \d+ of the batch, user '(u\d+)': (.*)", done.stderr)
    assert named, done.stderr
    assert all(message.startswith(ERRORS[user].removesuffix(" [")) for user, message in named)


def test_spark_needs_the_columns() -> None:
    message = r"the columns are \['history', 'id'\], expected user and history"
    with pytest.raises(DataError, match=message):
        recommend_dataframe(SimpleNamespace(columns=["id", "history"]), Scorer(MODEL))


def test_the_command_for_one_machine(llmcdsr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    lines = (ROOT / "models" / "demo-histories.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "histories.jsonl").write_text("".join(lines))
    program, *arguments = shlex.split(block("sh", "--processes"))
    assert program == "llmcdsr"
    done = llmcdsr(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "recommendations.jsonl").read_text().splitlines()) == len(lines)
