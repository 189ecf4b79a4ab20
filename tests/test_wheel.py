"""The wheel in environments of its own: NumPy alone, and all it depends on without a compiler.

Environments are made with what a package index has, which takes a minute: ``make test-wheel``, or
``LLMCDSR_TEST_WHEEL=1 pytest tests/test_wheel.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llmcdsr_lite import Recommender

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "models" / "demo"
HISTORY = ["g-coffee-dark-roast-whole-bean", "g-coffee-espresso-roast-whole-bean"]

pytestmark = pytest.mark.skipif(
    os.environ.get("LLMCDSR_TEST_WHEEL") != "1", reason="LLMCDSR_TEST_WHEEL=1 makes environments, in a minute"
)


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]


def pip(python: Path, *arguments: str | Path, without_compiler: bool = False) -> None:
    """Run pip; skip where there is no index to ask."""
    environment = dict(os.environ)
    if without_compiler:
        # programs of the environment and nothing else, and names that stand for no compiler
        environment |= {"PATH": str(python.parent), "CC": "false", "CXX": "false"}
        assert shutil.which("gcc", path=environment["PATH"]) is None
    done = run(python, "-m", "pip", *arguments, "-q", "--disable-pip-version-check", env=environment)
    if "No matching distribution found for" in done.stderr and "(from versions: none)" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def environment(folder: Path) -> Path:
    """Python of a new virtual environment."""
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves traces."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("llmcdsr_lite", "tools", "tests", "models"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip(Path(sys.executable), "wheel", "--no-deps", "-w", folder / "out", source)
    (path,) = (folder / "out").iterdir()
    return path


@pytest.fixture(scope="module")
def with_numpy(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("numpy") / "venv")
    pip(python, "install", "--only-binary=:all:", "numpy", without_compiler=True)
    pip(python, "install", "--no-deps", wheel, without_compiler=True)
    return python


def test_what_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 500_000
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "llmcdsr_lite",
        "llmcdsr_tools",
    }
    of_source = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "llmcdsr_lite"), (ROOT / "tools", "llmcdsr_tools"))
        for path in (base / package).rglob("*")
        if path.suffix in (".py", ".toml", ".css", ".typed") or path.name == "py.typed"
    }
    assert of_source == {name for name in names if ".dist-info/" not in name}
    for name in ("LICENSE", "NOTICE"):
        (inside,) = [one for one in names if one.endswith(f".dist-info/licenses/{name}")]
        assert zipfile.ZipFile(wheel).read(inside) == (ROOT / name).read_bytes()


PYTHON = """
import json, sys
from pathlib import Path
from llmcdsr_lite import MissingDependencyError, Recommender
from llmcdsr_lite.score.job import score_histories
with Recommender.load(sys.argv[1], backend="numpy") as recommender:
    history = json.loads(sys.argv[2])
    answer = recommender.recommend(history, domain="kitchenware", k=5, unknown="error", explain=True)
    summary = score_histories(recommender, Path(sys.argv[3]), Path(sys.argv[4]))
try:
    Recommender.load(sys.argv[1])
except MissingDependencyError as error:
    message = str(error)
print(json.dumps([[[item.id, item.score] for item in answer], summary.users, message]))
"""


def test_numpy_alone_recommends_and_scores(with_numpy: Path, tmp_path: Path) -> None:
    listed = run(with_numpy, "-m", "pip", "list", "--format=json").stdout
    installed = {one["name"].lower() for one in json.loads(listed)}
    assert installed <= {"numpy", "llmcdsr-lite", "pip", "setuptools", "wheel"}
    output = tmp_path / "out.jsonl"
    histories = ROOT / "models" / "demo-histories.jsonl"
    done = run(with_numpy, "-I", "-c", PYTHON, DEMO, json.dumps(HISTORY), histories, output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, users, message = json.loads(done.stdout)
    expected = Recommender.load(DEMO).recommend(HISTORY, domain="kitchenware", k=5)
    assert [item for item, _ in found] == [item.id for item in expected]
    assert [score for _, score in found] == pytest.approx([item.score for item in expected], abs=1e-4)
    assert users == len(histories.read_text().splitlines()) == len(output.read_text().splitlines())
    assert message.startswith("backend 'onnx' needs onnxruntime")


@pytest.mark.parametrize("module", [True, False])
def test_the_command_line_says_that_it_needs_click(with_numpy: Path, module: bool) -> None:
    command = [with_numpy, "-m", "llmcdsr_tools"] if module else [with_numpy.with_name("llmcdsr")]
    done = run(*command, "inspect", DEMO)
    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        done.stderr == "llmcdsr: the command line needs click: pip install click (the Python API does not)\n"
    )


def test_the_wheel_and_what_it_needs_install_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip(python, "install", wheel, without_compiler=True)
    done = run(python.with_name("llmcdsr"), "recommend", *HISTORY, "--model", DEMO, "-k", "3", "--json")
    assert done.returncode == 0, done.stderr
    expected = Recommender.load(DEMO).recommend(HISTORY, k=3)
    found = json.loads(done.stdout)["recommendations"]
    assert [item["id"] for item in found] == [item.id for item in expected]
    scored = run(
        python.with_name("llmcdsr"), "score", ROOT / "models" / "demo-histories.jsonl", "--model", DEMO
    )
    assert scored.returncode == 0, scored.stderr
    assert len(scored.stdout.splitlines()) > 1
