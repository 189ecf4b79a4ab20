"""docs/format.md names what there is: files, keys, inputs and outputs with their types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from llmcdsr_lite.bundle.folder import BUNDLE, CONFIG, ONNX, read_bundle
from llmcdsr_lite.mix.weights import EXPERTS
from llmcdsr_tools.export.standalone_graph import build_standalone

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
TEXT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([^`\n]+)`", TEXT)


def test_every_file_and_key() -> None:
    patterns = [re.compile(name.replace(".", r"\.").replace("*", r"\w+")) for name in NAMED if "npy" in name]
    for name in BUNDLE.files:
        assert name in NAMED or any(p.fullmatch(name) for p in patterns), name
    config = json.loads((DEMO / CONFIG).read_text(encoding="utf-8"))
    mix = {f"mix[t].{key}" for key in config["mix"][0]} - {"mix[t].validation"}
    assert {*config, *config["model"], *config["recall"], *mix} <= set(NAMED)
    assert all(f"w.{name}" in TEXT for name in EXPERTS)


@pytest.mark.parametrize("which", ["recommender", "standalone"])
def test_every_input_and_output(which: str) -> None:
    if which == "recommender":
        model = onnx.load(str(DEMO / ONNX), load_external_data=False)
    else:
        model = onnx.load_from_string(build_standalone(read_bundle(DEMO)))
    for value in (*model.graph.input, *model.graph.output):
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        rows = [
            line
            for line in TEXT.splitlines()
            if line.startswith("|") and f"| `{value.name}` | {kind} (" in line
        ]
        assert len(rows) == 1, value.name
        (shape,) = re.findall(rf"{kind} \(([^)]*)\)", rows[0])
        assert len([size for size in shape.split(",") if size]) == len(value.type.tensor_type.shape.dim)
    (opset,) = model.opset_import
    assert f"opset {opset.version}" in TEXT
