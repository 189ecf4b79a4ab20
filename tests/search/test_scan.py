"""The scan against whole numbers multiplied by NumPy, and against scores without rounding."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.search.choice import make_search
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.protocol import RowFilter
from llmcdsr_lite.search.scan import Scan, quantise_items, scan_graph
from llmcdsr_lite.search.two_pass import TwoPassSearch

DOMAINS = (Domain("a", 1, 21), Domain("b", 21, 61))
RANGES = [(1, 61), (1, 21), (21, 61)]


def vectors_of(seed: int, hidden: int = 16) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(61, hidden)) * 10.0 ** rng.uniform(-2, 1, (61, 1))
    vectors[0] = 0
    return vectors.astype(np.float32)


def test_items_become_whole_numbers() -> None:
    vectors = np.array([[0.5, -0.9, 0.0], [0.7, 0.004, -0.006]], dtype=np.float32)
    whole, unit, longest, furthest = quantise_items(vectors)
    assert whole.dtype == np.int8
    assert whole.tolist() == [[50, -90, 0], [70, 0, -1]]
    assert unit == pytest.approx(0.01)
    assert longest == pytest.approx((0.5**2 + 0.9**2) ** 0.5)
    assert furthest == pytest.approx((0.004**2 + 0.004**2) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_products_of_whole_numbers(seed: int) -> None:
    vectors = vectors_of(seed)
    whole = quantise_items(vectors[1:])[0].astype(np.int64)
    users = np.random.default_rng(seed).normal(size=(5, 16))
    steps = np.abs(users).max(axis=1, keepdims=True) / 89
    expected = np.rint(users / steps).astype(np.int64) @ whole.T
    scan = Scan(vectors, DOMAINS, 1)
    for start, stop in RANGES:
        found, _, _ = scan.scores(users, start, stop)
        assert found.dtype == np.int32
        assert found.tolist() == expected[:, start - 1 : stop - 1].tolist()


def test_sums_of_extreme_products_are_not_cut() -> None:
    """Where two products are added in 16 bits, those of full 8-bit numbers would not fit."""
    signs = np.where(np.random.default_rng(0).random((61, 64)) < 0.5, -1, 1)
    signs[1], signs[2] = 1, -1
    found, _, _ = Scan(signs.astype(np.float32), DOMAINS, 1).scores(
        signs[[1, 2, 3]].astype(np.float64), 1, 61
    )
    assert found.tolist() == (89 * 90 * (signs[[1, 2, 3]] @ signs[1:].T)).tolist()
    assert found[0, 0] == found[1, 1] == 89 * 90 * 64


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30])
def test_no_score_is_further_than_the_error(scale: float) -> None:
    """In fractions: nothing is rounded but the score, to float32."""
    closest = Fraction(10**9)
    for seed in range(3):
        vectors = (vectors_of(seed, 4) * scale).astype(np.float32)
        rng = np.random.default_rng(seed)
        users = rng.normal(size=(4, 4)).astype(np.float32).astype(np.float64)
        users[1] = vectors[7].astype(np.float64) / scale
        unit = Fraction(float(np.abs(vectors[1:]).max())) / 90
        found, error, of_whole = Scan(vectors, DOMAINS, 1).scores(users, 1, 61)
        for i, user in enumerate(users):
            # a step is never so small that rounding scores to float32 would count
            step = max(Fraction(float(np.abs(user).max())) / 89, Fraction(1, 10**27) / unit)
            assert of_whole[i] == pytest.approx(float(step * unit), rel=1e-12)
            for row in range(1, 61):
                pairs = zip(user.tolist(), vectors[row].tolist(), strict=True)
                score = Fraction(float(np.float32(float(sum(Fraction(x) * Fraction(y) for x, y in pairs)))))
                off = abs(score / (unit * step) - int(found[i, row - 1]))
                assert off <= Fraction(float(error[i]))
                closest = min(closest, Fraction(float(error[i])) / max(off, Fraction(1, 10**9)))
    assert closest < 3  # the error is not a wild guess


def test_scores_that_rounding_to_float32_makes_equal() -> None:
    """Two items whose whole numbers have no error of their own, but differ where float32 does not.

    The products are 2**25 and 2**25 + 2, times a power of two: one score, a tie that the first row wins.
    """
    power = np.float32(2.0**-7)
    user, items = np.zeros((1, 5000), np.float32), np.zeros((21, 5000), np.float32)
    user[0, :4189], items[1:3, :4189] = 89, 90  # 4189 * 89 * 90 = 2**25 - 542
    user[0, 4189:4196], items[1:3, 4189:4196] = 1, [90, 90, 90, 90, 90, 90, 2]
    items[2, 4195] += 2
    items[3:, 4999] = 1
    scan = Scan(items * power, (Domain("a", 1, 11), Domain("b", 11, 21)), 1)
    found, _, _ = scan.scores((user * power).astype(np.float64), 1, 21)
    assert found[0, :3].tolist() == [2**25, 2**25 + 2, 0]
    assert np.float32(2**25) == np.float32(2**25 + 2)
    search = make_search("exact", items * power, (Domain("a", 1, 11), Domain("b", 11, 21)), 1, scan=True)
    assert isinstance(search, TwoPassSearch)
    rows, scores = search.search(user * power, 1, RowFilter(1, 21, [np.zeros(0, np.int64)]))
    assert (rows.tolist(), scores.tolist()) == ([[1]], [[2.0**11]])


def test_the_graph_is_what_the_onnx_package_makes_of_it() -> None:
    model = onnx.load_from_string(scan_graph(64, 70_000))
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == (
        "MatMulInteger",
        ["users", "items", "zero"],
        ["scores"],
    )
    table, zero = model.graph.initializer
    assert (table.name, list(table.dims), table.data_type) == ("items", [64, 70_000], TensorProto.INT8)
    assert table.data_location == TensorProto.EXTERNAL
    assert onnx.numpy_helper.to_array(zero) == 90
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["users", "scores"]
    table.ClearField("external_data")  # the checker would look for the file
    table.data_location = TensorProto.DEFAULT
    table.raw_data = bytes(64 * 70_000)
    onnx.checker.check_model(model, full_check=True)
    again = onnx.load_from_string(model.SerializeToString())
    assert again == model


def test_without_onnxruntime_search_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    search = make_search("exact", vectors_of(0), DOMAINS, 1, scan=True)
    assert isinstance(search, ExactSearch)
