from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.text_initialization import initialize_from_text, load_text_embeddings


def text_of(n_items: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 1, size)  # no two components are equally strong
    return (rng.normal(size=(n_items, size)) * spread + 2).astype(np.float32)


def test_embeddings_are_the_principal_components() -> None:
    text = text_of(20, 6)
    table = np.full((21, 4), 9.0)
    initialize_from_text(table, text, 0.05)
    assert table[0].tolist() == [9] * 4  # padding
    centred = text.astype(np.float64) - text.mean(axis=0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)  # a second way to the same components
    expected = u[:, :4] * s[:4]
    expected *= 0.05 / np.sqrt((expected**2).mean())
    signs = np.sign((table[1:] * expected).sum(axis=0))
    np.testing.assert_allclose(table[1:], expected * signs, atol=1e-7)
    assert np.sqrt((table[1:] ** 2).mean()) == pytest.approx(0.05)


def test_untitled_items_and_columns_beyond_the_text_keep_what_they_have() -> None:
    text = text_of(8, 3)
    text[[2, 7]] = 0
    table = np.random.default_rng(1).normal(size=(9, 5))
    before = table.copy()
    initialize_from_text(table, text, 0.1)
    assert np.array_equal(table[[0, 3, 8]], before[[0, 3, 8]])
    assert np.array_equal(table[:, 3:], before[:, 3:])
    titled = [1, 2, 4, 5, 6, 7]
    assert not np.isclose(table[titled, :3], before[titled, :3]).any()
    assert table[titled, :3].mean(axis=0) == pytest.approx(0, abs=1e-12)  # centred over the titled alone
    assert np.sqrt((table[titled, :3] ** 2).mean()) == pytest.approx(0.1)


def test_signs_are_fixed() -> None:
    """Each direction's largest entry counts as positive, whatever sign the solver came to."""
    text = np.array([[-3, 0], [-1, 0], [0, 0.5], [4, -0.5]], dtype=np.float32)
    table = np.zeros((5, 2))
    initialize_from_text(table, text, 1.0)
    assert table[4, 0] > 0 > table[1, 0]  # along the first axis, upwards


@pytest.mark.parametrize("n_titled", [0, 1])
def test_too_few_titles_give_finite_values(n_titled: int) -> None:
    text = np.zeros((4, 3), dtype=np.float32)
    text[:n_titled] = 1
    table = np.ones((5, 2))
    initialize_from_text(table, text, 0.1)
    assert np.isfinite(table).all()
    assert (table[1 + n_titled :] == 1).all()


def test_reads_any_float_matrix(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "text.npy", np.arange(6, dtype=dtype).reshape(3, 2))
        found = load_text_embeddings(tmp_path / "text.npy", 3)
        assert found.dtype == np.float32
        assert found.tolist() == [[0, 1], [2, 3], [4, 5]]


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_text_embeddings(path, 3)
    assert str(caught.value).startswith(f"{path}: ")


def test_refusals_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "text.npy"
    refused(path, "cannot be read as a NumPy array")
    path.write_text("[1, 2]")
    refused(path, "cannot be read as a NumPy array")
    path.write_bytes(b"")
    refused(path, "cannot be read as a NumPy array")
    for wrong in (np.zeros((4, 2)), np.zeros(3), np.zeros((3, 2), dtype=np.int64)):
        np.save(path, wrong)
        refused(path, r"expected floats, one row for each of the 3 items")
    np.save(path, np.array([[1, 2], [3, np.nan], [5, 6]]))
    refused(path, "row 1 holds a value that is not finite")
    np.save(path, np.array([None, 1], dtype=object), allow_pickle=True)
    refused(path, "cannot be read as a NumPy array")


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", text=np.zeros((3, 2)))
    refused(tmp_path / "text.npz", "cannot be read as a NumPy array")


def test_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array([[1.0], [1e300], [2.0]]))
    refused(tmp_path / "text.npy", "row 1 holds a value that is not finite")
