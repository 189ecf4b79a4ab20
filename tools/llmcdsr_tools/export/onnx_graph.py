"""The recommender's ONNX graph at export: built as the runtime builds it to compare, checked with onnx."""

from __future__ import annotations

from onnx import checker

from llmcdsr_lite.model.recommender_graph import build_onnx as build_onnx


def check_onnx(path: str) -> None:
    """Run the ONNX checker, shape inference included, on a model file beside its item table."""
    checker.check_model(path, full_check=True)
