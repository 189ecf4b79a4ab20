"""The embed stage: the same matrix whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import PLACES, E, TinyModel, make_texts, make_tiny_model, write_encoder

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import BundleError, DataError, UsageError
from llmcdsr_tools import embed as stage
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.embed import EmbedResult, embed

N_A, N_B = 30, 45
SMALL_BLOCK = 8


class Stop(Exception):
    """Raised by a test in the middle of the work."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "BLOCK", SMALL_BLOCK)


@pytest.fixture
def tiny() -> TinyModel:
    return make_tiny_model()


@pytest.fixture
def encoder(tmp_path: Path, tiny: TinyModel) -> Path:
    return write_encoder(tmp_path / "encoder", tiny)


def make_dataset(titles: list[str]) -> Dataset:
    catalogue = Catalogue.from_sizes(
        [f"i{n}" for n in range(len(titles))], titles, ("a", "b"), (N_A, len(titles) - N_A)
    )
    histories = Histories.from_lists([[1, N_A + 1]], ["u"])
    return Dataset(catalogue, histories, histories, histories)


@pytest.fixture
def dataset() -> Dataset:
    titles = make_texts(N_A + N_B)
    titles[4] = titles[50] = ""
    return make_dataset(titles)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupt_after(blocks: int, dataset: Dataset, encoder: Path, output: Path, **settings: int) -> None:
    def stop(done: int, n: int) -> None:
        if done == blocks * SMALL_BLOCK:
            raise Stop

    with pytest.raises(Stop):
        embed(dataset, encoder, output, progress=stop, **settings)


def test_the_matrix_is_that_of_the_formulas(
    dataset: Dataset, encoder: Path, tiny: TinyModel, tmp_path: Path
) -> None:
    save_dataset(dataset, tmp_path / "dataset")
    output = tmp_path / "new" / "titles.npy"
    told = []
    result = embed(tmp_path / "dataset", encoder, output, progress=lambda *done: told.append(done))
    matrix = np.load(output)
    expected = tiny.vectors(list(dataset.catalogue.titles), max_length=PLACES)
    expected[[4, 50]] = 0  # row 5 and row 51 have no title
    assert (matrix.dtype, matrix.shape) == (np.float32, (N_A + N_B, E))
    np.testing.assert_allclose(matrix, expected, atol=2e-6)
    assert result == EmbedResult(output, N_A + N_B, E, 2, 0, ())
    assert told == [(min(n, 75), 75) for n in range(8, 81, 8)]
    assert names(output.parent) == ["titles.npy"]


def test_an_interrupted_matrix_is_finished(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    undisturbed, output = tmp_path / "one.npy", tmp_path / "two.npy"
    embed(dataset, encoder, undisturbed)
    interrupt_after(3, dataset, encoder, output)
    assert not output.exists()
    told = []
    result = embed(dataset, encoder, output, progress=lambda done, n: told.append(done))
    assert result.n_resumed == 24
    assert not result.warnings
    assert told[0] == 32  # the first three blocks are not encoded again
    assert output.read_bytes() == undisturbed.read_bytes()
    assert not list(tmp_path.glob("*partial*"))


def test_finished_rows_are_kept_as_they_are(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "titles.npy"
    interrupt_after(2, dataset, encoder, output)
    partial = np.lib.format.open_memmap(tmp_path / "titles.npy.partial", mode="r+")
    partial[15], partial[16] = 5, 5  # the last row that is counted, the first that is not
    partial.flush()
    embed(dataset, encoder, output)
    assert np.load(output)[15].tolist() == [5] * E
    assert np.load(output)[16].max() < 1


KILLED = """
import sys, time
from pathlib import Path
from llmcdsr_tools import embed as stage
stage.BLOCK = 8
dataset, encoder, output = map(Path, sys.argv[1:])
def slow(done, n):
    print(done, flush=True)
    time.sleep(0.02)
stage.embed(dataset, encoder, output, progress=slow)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_loses_no_finished_block(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    save_dataset(dataset, tmp_path / "dataset")
    undisturbed, output = tmp_path / "one.npy", tmp_path / "two.npy"
    embed(dataset, encoder, undisturbed)
    command = [sys.executable, "-c", KILLED, tmp_path / "dataset", encoder, output]
    finished = 0
    for wait in (0.0, 0.013, 0.031):  # somewhere in the sleep, and in the block after it
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [int(process.stdout.readline()) for _ in range(2)]
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            lines += [int(line) for line in process.stdout]
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
        assert lines[0] > finished
        finished = lines[-1]
        counted = json.loads((tmp_path / "two.npy.partial.json").read_text())["blocks_done"]
        assert counted * 8 >= finished
    result = embed(dataset, encoder, output)
    assert result.n_resumed >= finished >= 48
    assert output.read_bytes() == undisturbed.read_bytes()


def test_work_on_something_else_is_not_continued(
    dataset: Dataset, encoder: Path, tiny: TinyModel, tmp_path: Path
) -> None:
    other = make_dataset([*dataset.catalogue.titles[:-1], "the pot"])
    for blocks, changed, data, settings in (
        (2, "titles", other, {}),
        (3, "batch_size", dataset, {"batch_size": 3}),
        (1, "encoder", dataset, {"max_length": 5}),
    ):
        output = tmp_path / changed / "titles.npy"
        interrupt_after(blocks, dataset, encoder, output)
        result = embed(data, encoder, output, **settings)
        (warning,) = result.warnings
        assert f"titles.npy.partial: made from something else ({changed}), starting over" in warning
        assert result.n_resumed == 0
        expected = tiny.vectors(list(data.catalogue.titles), max_length=settings.get("max_length", PLACES))
        titled = [bool(title) for title in data.catalogue.titles]
        np.testing.assert_allclose(np.load(output)[titled], expected[titled], atol=2e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("titles.npy.partial.json", "{", "partial.json: cannot be read, starting over"),
        ("titles.npy.partial.json", "[1]", "partial.json: cannot be read, starting over"),
        ("titles.npy.partial", "no matrix", "cannot be gone on with"),
        ("titles.npy.partial", None, "cannot be gone on with"),
    ],
)
def test_damaged_work_is_not_continued(
    dataset: Dataset, encoder: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    undisturbed, output = tmp_path / "one.npy", tmp_path / "titles.npy"
    embed(dataset, encoder, undisturbed)
    interrupt_after(2, dataset, encoder, output)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    result = embed(dataset, encoder, output)
    assert message in result.warnings[0]
    assert result.n_resumed == 0
    assert output.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("blocks", [-1, 11])
def test_a_count_that_cannot_be_is_not_believed(
    dataset: Dataset, encoder: Path, tmp_path: Path, blocks: int
) -> None:
    output = tmp_path / "titles.npy"
    interrupt_after(2, dataset, encoder, output)
    sidecar = tmp_path / "titles.npy.partial.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "blocks_done": blocks}))
    assert f"counts {blocks} blocks" in embed(dataset, encoder, output).warnings[0]


def test_an_older_matrix_is_not_taken_for_the_lost_one(
    dataset: Dataset, encoder: Path, tmp_path: Path
) -> None:
    undisturbed, output = tmp_path / "one.npy", tmp_path / "titles.npy"
    embed(dataset, encoder, undisturbed)
    interrupt_after(2, dataset, encoder, output)
    (tmp_path / "titles.npy.partial").unlink()
    np.save(output, np.ones((N_A + N_B, E), dtype=np.float32))
    assert embed(dataset, encoder, output, overwrite=True).n_resumed == 0
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_matrix_without_a_count_is_started_over(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "titles.npy"
    interrupt_after(2, dataset, encoder, output)
    (tmp_path / "titles.npy.partial.json").unlink()
    assert embed(dataset, encoder, output).n_resumed == 0


def test_ending_right_after_the_name_is_given_is_no_loss(
    dataset: Dataset, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "titles.npy"

    def rename_and_stop(source: Path, target: Path) -> None:
        os.rename(source, target)
        if Path(target) == output:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(stage.os, "replace", rename_and_stop)
        with pytest.raises(Stop):
            embed(dataset, encoder, output)
    assert names(tmp_path) == ["encoder", "titles.npy", "titles.npy.partial.json"]
    before = output.stat().st_mtime_ns
    assert embed(dataset, encoder, output).n_resumed == N_A + N_B
    assert output.stat().st_mtime_ns == before
    assert names(tmp_path) == ["encoder", "titles.npy"]


@pytest.mark.parametrize("content", [None, "another file"])
def test_a_whole_matrix_that_is_lost_is_made_again(
    dataset: Dataset, encoder: Path, tmp_path: Path, content: str | None
) -> None:
    undisturbed, output = tmp_path / "one.npy", tmp_path / "titles.npy"
    embed(dataset, encoder, undisturbed)
    last_block = -(-(N_A + N_B) // SMALL_BLOCK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.os, "replace", stop_before(output))
        with pytest.raises(Stop):
            embed(dataset, encoder, output)
    sidecar = tmp_path / "titles.npy.partial.json"
    assert json.loads(sidecar.read_text())["blocks_done"] == last_block
    (tmp_path / "titles.npy.partial").unlink()
    if content is not None:
        output.write_text(content)
    assert "cannot be gone on with" in embed(dataset, encoder, output, overwrite=True).warnings[0]
    assert output.read_bytes() == undisturbed.read_bytes()


def stop_before(output: Path) -> Callable[[Path, Path], None]:
    """An `os.replace` that ends the work before `output` gets its name."""

    def rename(source: Path, target: Path) -> None:
        if Path(target) == output:
            raise Stop
        os.rename(source, target)

    return rename


def test_a_file_that_is_there_is_replaced_only_on_request(
    dataset: Dataset, encoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "titles.npy"
    output.write_text("precious")
    with pytest.raises(DataError, match=r"titles\.npy: exists already"):
        embed(dataset, encoder, output)
    assert output.read_text() == "precious"
    assert names(tmp_path) == ["encoder", "titles.npy"]
    embed(dataset, encoder, output, overwrite=True)
    assert np.load(output).shape == (N_A + N_B, E)


def test_errors_name_what_is_wrong(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder, expected the name of"):
        embed(dataset, encoder, tmp_path)
    with pytest.raises(BundleError, match="nowhere: no such folder"):
        embed(dataset, tmp_path / "nowhere", tmp_path / "titles.npy")
    broken = make_dataset([*make_texts(N_A + 9), "half a \ud83d"])
    with pytest.raises(DataError, match="item rows 33 to 40, counted from 0: text 7: is not valid Unicode"):
        embed(broken, encoder, tmp_path / "titles.npy")


def test_an_object_that_encodes(dataset: Dataset, tmp_path: Path) -> None:
    class Lengths:
        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[len(text), 1] for text in texts]

    result = embed(dataset, Lengths(), tmp_path / "titles.npy")
    assert result.dimension == 2
    expected = [[len(title), 1] if title else [0, 0] for title in dataset.catalogue.titles]
    assert np.load(tmp_path / "titles.npy").tolist() == expected
    with pytest.raises(UsageError, match="prompt and max_length are of an encoder folder"):
        embed(dataset, Lengths(), tmp_path / "other.npy", prompt="query")
