from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmcdsr_lite

HEAVY = [
    *("onnxruntime", "click", "tokenizers", "hnswlib", "onnx", "matplotlib", "scipy", "openai"),
    *("pyarrow", "pandas", "polars", "duckdb"),
    "llmcdsr_tools",
]
MODULES = sorted(Path(llmcdsr_lite.__file__).parent.rglob("*.py"))


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_numpy_and_nothing_else() -> None:
    code = f"import sys, llmcdsr_lite; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in llmcdsr_lite.__all__:
        assert getattr(llmcdsr_lite, name) is not None
    with pytest.raises(AttributeError, match="module 'llmcdsr_lite' has no attribute 'Recomender'"):
        _ = llmcdsr_lite.Recomender  # type: ignore[attr-defined]


def test_numpy_alone_is_enough(bundle_folder: Path) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # importing any of them fails
from llmcdsr_lite import MissingDependencyError, Recommender
recommender = Recommender.load({str(bundle_folder)!r}, backend="numpy")
print(len(recommender.recommend(["f1", "k2"], k=3)), len(recommender.similar("f1", 4)))
print(recommender.recommend([], k=3).fallback)
from pathlib import Path
from llmcdsr_lite.score.job import score_histories
import io, types
sys.stdin = types.SimpleNamespace(buffer=io.BytesIO(b'{{"user": 1, "history": ["f1"]}}'))
print(score_histories(recommender, Path("-"), Path("-")).users)
try:
    Recommender.load({str(bundle_folder)!r})
except MissingDependencyError as error:
    print(error)
"""
    lines = run(code).splitlines()
    assert lines[:2] == ["3 4", "True"]
    assert lines[2].startswith('{"user": "1", "items": [')
    assert lines[3] == "1"
    assert lines[4].startswith("backend 'onnx' needs onnxruntime")
    assert lines[4].endswith("pip install onnxruntime, or use backend='numpy'")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_runtime_never_imports_the_tools(path: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("llmcdsr_tools")  # import_module("...")
    assert not [name for name in names if name.split(".")[0] == "llmcdsr_tools"]
    assert len(MODULES) > 10
