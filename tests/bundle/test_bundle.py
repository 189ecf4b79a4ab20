from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_damage import edit_config, npy, put, refusal

from llmcdsr_lite.bundle.files import read_array
from llmcdsr_lite.bundle.folder import REQUIRED, Bundle, read_bundle, write_bundle
from llmcdsr_lite.errors import BundleError, DataError
from llmcdsr_lite.model.parameters import SASRecParameters


def test_round_trip(bundle_data: Bundle, bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    assert list(bundle.catalogue.ids) == list(bundle_data.catalogue.ids)
    assert list(bundle.catalogue.titles) == list(bundle_data.catalogue.titles)
    assert bundle.catalogue.domains == bundle_data.catalogue.domains
    assert np.array_equal(bundle.item_vectors, bundle_data.item_vectors)
    assert np.array_equal(bundle.parameters.dense, bundle_data.parameters.dense)
    assert np.array_equal(bundle.item_counts, bundle_data.item_counts)
    assert bundle.parameters.config == bundle_data.parameters.config
    assert bundle.training == {"epoch": 3}
    assert bundle.folder == bundle_folder


def test_arrays_are_memory_mapped_and_read_only(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    for array in (bundle.item_vectors, bundle.parameters.dense, bundle.item_counts):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_folder_is_what_the_documentation_says(bundle_folder: Path) -> None:
    assert sorted(p.name for p in bundle_folder.iterdir()) == sorted(["config.json", *REQUIRED])
    config = json.loads((bundle_folder / "config.json").read_text())
    assert (config["format"], config["format_version"]) == ("llmcdsr-bundle", 1)
    assert config["domains"] == [{"name": "food", "items": 12}, {"name": "kitchen", "items": 18}]
    for name, entry in config["files"].items():
        content = (bundle_folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    vectors = np.load(bundle_folder / "item_vectors.npy", allow_pickle=False)
    assert (vectors.dtype, vectors.shape) == (np.float32, (31, 8))
    assert json.loads((bundle_folder / "item_titles.json").read_text("utf-8"))[0] == "Café beans No. 0"


def test_a_bundle_may_be_reached_through_a_link(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle_folder)
    assert read_bundle(tmp_path / "latest").catalogue.ids[0] == "f0"


@pytest.mark.parametrize("name", ["config.json", *REQUIRED])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder / name}: is missing; is {folder} a bundle?"


@pytest.mark.parametrize("name", REQUIRED)
def test_unlisted_file(folder: Path, name: str) -> None:
    edit_config(folder, lambda config: config["files"].pop(name))
    assert refusal(folder) == f"{folder / 'config.json'}: field 'files' does not list {name}"


@pytest.mark.parametrize("name", REQUIRED)
def test_one_changed_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: SHA-256 is {hashlib.sha256(content).hexdigest()}, expected")


@pytest.mark.parametrize("name", REQUIRED)
def test_wrong_size(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"x")
    size = (folder / name).stat().st_size
    assert refusal(folder) == f"{folder / name}: {size} bytes, expected {size - 1}"


FLOATS = np.ones((31, 8), np.float32)


NOT_FINITE = FLOATS.copy()


NOT_FINITE[4, 3] = np.nan


INFINITE = FLOATS.copy()


INFINITE[4, 3] = -np.inf


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("item_vectors.npy", FLOATS[:-1], "shape (30, 8), expected float32 (31, 8)"),
        ("item_vectors.npy", FLOATS[:, :-1], "shape (31, 7), expected float32 (31, 8)"),
        ("item_vectors.npy", FLOATS.ravel(), "shape (248,), expected float32 (31, 8)"),
        ("item_vectors.npy", FLOATS.astype(np.float64), "float64 array"),
        ("item_vectors.npy", FLOATS.astype(">f4"), "expected float32"),
        ("item_vectors.npy", np.asfortranarray(FLOATS), "in C order"),
        ("item_vectors.npy", NOT_FINITE, "not finite"),
        ("item_vectors.npy", INFINITE, "not finite"),
        ("item_vectors.npy", FLOATS, "row 0 is padding and must be zero"),
        ("item_vectors.npy", FLOATS * -2e6, "holds 2e+06, expected no more than 1e+06"),
        ("item_vectors.npy", np.full((31, 8), None), "cannot be read as a NumPy array"),
        ("dense.npy", np.ones(7, np.float32), "shape (7,)"),
        ("dense.npy", np.ones((1, 1104), np.float32), "expected float32"),
        ("item_counts.npy", np.ones(31, np.float32), "float32 array of shape (31,), expected int64 (31,)"),
        ("item_counts.npy", np.ones(30, np.int64), "shape (30,), expected int64 (31,)"),
        ("item_counts.npy", np.full(31, -1), "negative count"),
    ],
)
def test_wrong_array_with_the_right_hash(folder: Path, name: str, array: Any, reason: str) -> None:
    put(folder, name, npy(array))
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert reason in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_dense_values_that_are_not_finite(folder: Path, value: float) -> None:
    array = np.load(folder / "dense.npy")
    array[-1] = value
    put(folder, "dense.npy", npy(array))
    assert refusal(folder) == f"{folder / 'dense.npy'}: holds values that are not finite"


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EXPLOIT"],)


@pytest.mark.parametrize("content", ["object array", "pickle"])
def test_nothing_is_ever_unpickled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("EXPLOIT", str(tmp_path / "owned"))
    evil = np.array([Exploit()] * 31, dtype=object)
    put(folder, "item_counts.npy", npy(evil) if content == "object array" else pickle.dumps(Exploit()))
    assert refusal(folder).startswith(f"{folder / 'item_counts.npy'}: cannot be read as a NumPy array")
    assert not (tmp_path / "owned").exists()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text.encode() + bytes(2000)


ARCHIVE = io.BytesIO()


np.savez(ARCHIVE, a=np.zeros(31))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not an array at all",
        ARCHIVE.getvalue(),
        header("{'descr': ((("),
        header("-" * 9000 + "1"),
        header("{[]: 1}"),
        header("{1, 2}"),
        header("{}", (9, 0)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 8), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 8), }"),
        header("{'descr': 5, 'fortran_order': False, 'shape': (31, 8), }"),
        header("{'descr': '|V0', 'fortran_order': False, 'shape': (31, 8), }"),
    ],
)
def test_crafted_npy(folder: Path, content: bytes) -> None:
    put(folder, "item_vectors.npy", content)
    assert refusal(folder).startswith(f"{folder / 'item_vectors.npy'}: ")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("item_ids.json", ["x"] * 30, "item id 'x' occurs more than once"),
        ("item_ids.json", [f"i{n}" for n in range(29)], "29 strings, expected 30"),
        ("item_titles.json", ["t"] * 31, "31 strings, expected 30"),
        ("item_ids.json", [*range(30)], "JSON array of strings"),
        ("item_ids.json", {"a": 1}, "JSON array of strings"),
        ("item_titles.json", "t" * 30, "JSON array of strings"),
        ("item_titles.json", [None] * 30, "JSON array of strings"),
        ("item_titles.json", ["\ud800"] * 30, "not valid Unicode"),
        ("item_ids.json", ["\ud83d", "\ude00", *map(str, range(28))], "not valid Unicode"),
    ],
)
def test_wrong_strings(folder: Path, name: str, value: Any, reason: str) -> None:
    put(folder, name, json.dumps(value).encode())
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert reason in message


@pytest.mark.parametrize("content", [b"", b"[", b'["\xff"]', b"[" * 100_000, b"nan"])
@pytest.mark.parametrize("name", ["item_ids.json", "config.json"])
def test_not_json(folder: Path, name: str, content: bytes) -> None:
    if name == "config.json":
        (folder / name).write_bytes(content)
    else:
        put(folder, name, content)
    assert refusal(folder).startswith(f"{folder / name}: not valid JSON")


@pytest.mark.parametrize("change", [{"max_length": 7}, {"n_blocks": 1}, {"n_blocks": 256}])
def test_sizes_that_do_not_fit_the_arrays(folder: Path, change: dict[str, int]) -> None:
    edit_config(folder, lambda config: config["model"].update(change))
    assert refusal(folder).startswith(f"{folder / 'dense.npy'}: float32 array of shape")


@pytest.mark.parametrize(("name", "last"), [("recommender.onnx", 200), ("dense.npy", 5)])
def test_a_graph_of_other_numbers(folder: Path, name: str, last: int) -> None:
    """One bit of either is another model: the backends would not give the same answers."""
    content = bytearray((folder / name).read_bytes())
    content[-last] ^= 1
    put(folder, name, bytes(content))
    assert refusal(folder).startswith(f"{folder / 'recommender.onnx'}: is not the graph of this config.json")


def test_a_long_history_costs_nothing_where_the_graph_is_small(folder: Path) -> None:
    """The graph would hold 16 GB of mask."""
    length = 1 << 16
    dense = np.load(folder / "dense.npy")
    put(folder, "dense.npy", npy(np.concatenate([dense, np.zeros((length - 6) * 8, np.float32)])))
    edit_config(folder, lambda config: config["model"].update(max_length=length))
    assert refusal(folder).startswith(f"{folder / 'recommender.onnx'}: is not the graph of this config.json")


@pytest.mark.parametrize("value", ["", None, 5, "0" * 64])
def test_wrong_hash_in_config(folder: Path, value: object) -> None:
    edit_config(folder, lambda config: config["files"]["dense.npy"].update(sha256=value))
    assert refusal(folder).startswith(f"{folder / 'dense.npy'}: SHA-256 is")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a\\b", "", ".", "..", "sub/x", "x\0", "x\n", ".hidden", "C:x", "é", "a" * 101],
)
def test_names_that_leave_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "x").write_bytes(b"secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    edit_config(folder, lambda config: config["files"].update({name: entry}))
    assert refusal(folder) == f"{folder / 'config.json'}: {name!r} is not a plain file name inside the bundle"


def test_more_files_than_any_bundle_has(folder: Path) -> None:
    edit_config(folder, lambda config: config["files"].update((f"x{n}", {}) for n in range(100)))
    assert refusal(folder).endswith("files, expected 100 at most")


@pytest.mark.parametrize("name", ["config.json", *REQUIRED])
def test_a_link_out_of_the_folder(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    assert refusal(folder) == f"{folder / name}: is a link that leads out of the bundle"


def test_a_link_to_a_sibling_with_the_same_start_of_name(folder: Path) -> None:
    sibling = folder.with_name(folder.name + "2")
    sibling.mkdir()
    shutil.move(folder / "dense.npy", sibling / "dense.npy")
    (folder / "dense.npy").symlink_to(Path("..") / sibling.name / "dense.npy")
    assert refusal(folder) == f"{folder / 'dense.npy'}: is a link that leads out of the bundle"


def test_a_link_inside_the_folder_is_harmless(folder: Path) -> None:
    (folder / "dense.npy").rename(folder / "real.npy")
    (folder / "dense.npy").symlink_to("real.npy")
    assert read_bundle(folder).parameters.dense.shape


def test_files_that_are_no_files(folder: Path) -> None:
    (folder / "dense.npy").unlink()
    (folder / "dense.npy").mkdir()
    assert refusal(folder) == f"{folder / 'dense.npy'}: is not a regular file"
    (folder / "dense.npy").rmdir()
    os.mkfifo(folder / "dense.npy")  # reading it would wait for ever
    assert refusal(folder) == f"{folder / 'dense.npy'}: is not a regular file"
    (folder / "dense.npy").unlink()
    (folder / "dense.npy").symlink_to("dense.npy")
    assert refusal(folder).startswith(f"{folder / 'dense.npy'}: ")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    assert "nothing/config.json: is missing; is" in refusal(tmp_path / "nothing")
    assert "config.json: is missing; is" in refusal(tmp_path)
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "file").startswith(f"{tmp_path / 'file' / 'config.json'}: ")


def test_an_existing_folder_is_overwritten_only_if_asked(
    bundle_data: Bundle, bundle_folder: Path, tmp_path: Path
) -> None:
    folder, model = tmp_path / "bundle", (bundle_folder / "recommender.onnx").read_bytes()
    write_bundle(bundle_data, folder, onnx_model=model, model_card="first")
    with pytest.raises(DataError, match="exists already"):
        write_bundle(bundle_data, folder, onnx_model=model, model_card="second")
    assert (folder / "README.md").read_text() == "first"
    write_bundle(bundle_data, folder, onnx_model=model, model_card="third", overwrite=True)
    assert (folder / "README.md").read_text() == "third"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def nan_model(bundle: Bundle) -> Bundle:
    dense = bundle.parameters.dense.copy()
    dense[0] = np.nan
    return replace(bundle, parameters=SASRecParameters(bundle.parameters.config, bundle.item_vectors, dense))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (nan_model, BundleError),
        (lambda b: replace(b, item_counts=b.item_counts[:-1]), BundleError),
        (lambda b: replace(b, training={"x": object()}), TypeError),
        (lambda b: replace(b, training={"x": "y" * (1 << 20)}), BundleError),
    ],
)
def test_a_failed_write_leaves_no_folder(
    bundle_data: Bundle,
    bundle_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Bundle], Bundle],
    error: type[Exception],
) -> None:
    model = (bundle_folder / "recommender.onnx").read_bytes()
    with pytest.raises(error):
        write_bundle(spoil(bundle_data), tmp_path / "bundle", onnx_model=model, model_card="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is resident")
def test_checks_leave_no_pages_behind(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.ones((1 << 18, 4), dtype=np.float32))  # 4 MB
    array = read_array(tmp_path / "large.npy", np.float32, (1 << 18, 4))

    def resident() -> int:
        """kB of the file that are in memory as ours."""
        lines = Path("/proc/self/smaps").read_text().splitlines()
        (mapping,) = [n for n, line in enumerate(lines) if line.endswith("/large.npy")]
        return int(next(line for line in lines[mapping:] if line.startswith("Rss:")).split()[1])

    assert resident() < 1024
    assert array.sum() == 1 << 20
    assert resident() > 2048
