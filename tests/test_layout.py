"""The folders and root modules of a package lie in layers: none imports what imports it, at whatever time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llmcdsr_lite
import llmcdsr_tools


def imports(path: Path) -> Iterator[list[str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}".split(".") for alias in node.names)


@pytest.mark.parametrize(
    ("init", "upwards"),
    [
        (llmcdsr_lite.__file__, ["errors", "model", "bundle", "ranking", "recommender", "score", "cli"]),
        (llmcdsr_tools.__file__, ["data", "optimization", "pretrain", "train", "pipeline", "cli"]),
    ],
)
def test_nothing_imports_upwards(init: str, upwards: list[str]) -> None:
    root = Path(init).parent
    below: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        unit = path.relative_to(root).with_suffix("").parts[0]
        names = [name[1] for name in imports(path) if name[0] == root.name and len(name) > 1]
        below.setdefault(unit, set()).update(set(names) - {unit})
    del below["__init__"]  # it gives names of every layer
    order = TopologicalSorter(below).static_order()  # a CycleError names those that go in turns
    assert [unit for unit in order if unit in upwards] == upwards
