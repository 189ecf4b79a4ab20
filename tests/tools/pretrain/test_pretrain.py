"""The stage: what it writes, that it repeats itself to the byte, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_tools.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.pretrain.domain_training import DomainEpoch
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.pretrain.pretraining import PretrainObserver, load_pretrained, pretrain

SETTINGS = PretrainSettings(
    n_epochs=4, batch_size=32, learning_rate=0.01, hidden=8, n_blocks=1, max_length=10, patience=4
)


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("titles") / "titles.npy"
    np.save(path, np.random.default_rng(0).normal(size=(66, 5)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def undisturbed(small_world: Any, titles: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("pretrained") / "new folder" / "pretrained.npz"
    return pretrain(small_world.folder, titles, output, SETTINGS)


class StopAfter(PretrainObserver):
    def __init__(self, domain: str, epoch: int) -> None:
        self.at = domain, epoch
        self.seen: list[tuple[str, int, bool]] = []

    def epoch(self, domain: str, metrics: DomainEpoch, improved: bool) -> None:
        self.seen.append((domain, metrics.epoch, improved))
        if (domain, metrics.epoch) == self.at:
            raise KeyboardInterrupt


def test_what_it_writes(small_world: Any, titles: Path, undisturbed: Any) -> None:
    found = load_pretrained(undisturbed.output, small_world.data)
    assert [a.shape for a in found.projections] == [(8, 5)] * 2
    assert [a.shape for a in found.items] == [(30, 8), (36, 8)]
    assert all(a.dtype == np.float32 for a in (*found.projections, *found.items))
    assert found.description["settings"] == asdict(SETTINGS)
    assert [p.name for p in undisturbed.output.parent.iterdir()] == ["pretrained.npz"]
    for epochs, best, described in zip(
        undisturbed.epochs, undisturbed.best_epoch, found.description["domains"], strict=True
    ):
        values = [e.hr10 for e in epochs]
        assert best == values.index(max(values)) + 1 == described["best_epoch"]
        assert [{**e, "seconds": 0.0} for e in described["epochs"]] == [
            asdict(replace(e, seconds=0.0)) for e in epochs
        ]


def test_the_best_epoch_is_kept(small_world: Any, titles: Path, tmp_path: Path, undisturbed: Any) -> None:
    kept = load_pretrained(undisturbed.output)
    for index, best in enumerate(undisturbed.best_epoch):
        output = tmp_path / f"{index}.npz"
        pretrain(small_world.folder, titles, output, replace(SETTINGS, n_epochs=best))
        ended = load_pretrained(output)
        assert (ended.items[index] == kept.items[index]).all()
        assert (ended.projections[index] == kept.projections[index]).all()


def test_it_stops_when_validation_does_not_rise(small_world: Any, titles: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, n_epochs=50, patience=1)
    result = pretrain(small_world.folder, titles, tmp_path / "out.npz", settings)
    for epochs, best in zip(result.epochs, result.best_epoch, strict=True):
        assert len(epochs) == best + 1 < 50
        assert epochs[-1].hr10 <= epochs[-2].hr10


@pytest.mark.parametrize("at", [("food", 1), ("food", 4), ("tools", 2), ("tools", 4)])
def test_an_interrupted_one_ends_the_same(
    small_world: Any, titles: Path, tmp_path: Path, undisturbed: Any, at: tuple[str, int]
) -> None:
    output = tmp_path / "pretrained.npz"
    observer = StopAfter(*at)
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_world.folder, titles, output, SETTINGS, observer=observer)
    assert not output.exists()
    result = pretrain(small_world.folder, titles, output, SETTINGS)
    assert result.n_resumed == len(observer.seen)
    assert output.read_bytes() == undisturbed.output.read_bytes()
    assert result.best_epoch == undisturbed.best_epoch
    assert [p.name for p in tmp_path.iterdir()] == ["pretrained.npz"]


CODE = """
import json
import sys
from pathlib import Path
from llmcdsr_tools.pretrain.pretraining import pretrain
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
dataset, titles, output = map(Path, sys.argv[1:4])
pretrain(dataset, titles, output, PretrainSettings(**json.loads(sys.argv[4])))
"""


@pytest.mark.slow
def test_kill_9(small_world: Any, titles: Path, tmp_path: Path, undisturbed: Any) -> None:
    output = tmp_path / "pretrained.npz"
    arguments = [sys.executable, "-c", CODE, small_world.folder, titles, output, json.dumps(asdict(SETTINGS))]
    partial = tmp_path / "pretrained.npz.partial"
    killed = 0
    for _ in range(3):
        process = subprocess.Popen([str(a) for a in arguments])
        before = partial.stat().st_mtime_ns if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_mtime_ns == before):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    if not output.exists():
        pretrain(small_world.folder, titles, output, SETTINGS)
    assert output.read_bytes() == undisturbed.output.read_bytes()


def test_the_seed_decides(small_world: Any, titles: Path, tmp_path: Path, undisturbed: Any) -> None:
    other = replace(SETTINGS, seed=1, n_epochs=1)
    result = pretrain(small_world.folder, titles, tmp_path / "other.npz", other)
    assert result.epochs[0][0].loss != undisturbed.epochs[0][0].loss
    food, tools = (e[0].contrastive for e in result.epochs)
    assert food != tools


def test_work_for_something_else_is_not_gone_on_with(small_world: Any, titles: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_world.folder, titles, output, SETTINGS, observer=StopAfter("food", 1))
    other = replace(SETTINGS, n_epochs=1)
    result = pretrain(small_world.folder, titles, output, other)
    assert result.n_resumed == 0
    assert result.warnings == (f"{output}.partial: made from something else, starting over",)
    pretrain(small_world.folder, titles, tmp_path / "plain.npz", other)
    assert output.read_bytes() == (tmp_path / "plain.npz").read_bytes()


def test_a_damaged_partial_is_named(small_world: Any, titles: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npz.partial").write_bytes(b"PK\x03\x04")
    with pytest.raises(TrainingError, match=r"out\.npz\.partial: cannot be gone on with"):
        pretrain(small_world.folder, titles, tmp_path / "out.npz", SETTINGS)


def test_an_output_that_is_there(small_world: Any, titles: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    output.write_bytes(b"mine")
    short = replace(SETTINGS, n_epochs=1)
    with pytest.raises(DataError, match=r"out\.npz: exists already"):
        pretrain(small_world.folder, titles, output, short)
    assert output.read_bytes() == b"mine"
    pretrain(small_world.folder, titles, output, short, overwrite=True)
    load_pretrained(output, small_world.data)
    with pytest.raises(DataError, match="exists already"):
        pretrain(small_world.folder, titles, tmp_path, short, overwrite=True)


@pytest.mark.parametrize("sizes", [(66,), (30, 16, 20)])
def test_any_number_of_domains(
    small_world: Any, titles: Path, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    """Of three, the first is what it is of two: a domain is trained on its own items alone."""
    whole = small_world.data.catalogue
    catalogue = Catalogue.from_sizes(whole.ids, whole.titles, "abc"[: len(sizes)], sizes)
    data = replace(small_world.data, catalogue=catalogue)
    save_dataset(data, tmp_path / "dataset")
    short, output = replace(SETTINGS, n_epochs=2), tmp_path / "out.npz"
    observer = StopAfter("abc"[len(sizes) - 1], 1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "dataset", titles, output, short, observer=observer)
    result = pretrain(tmp_path / "dataset", titles, output, short)
    assert result.n_resumed == 2 * len(sizes) - 1
    assert [len(epochs) for epochs in result.epochs] == [2] * len(sizes)
    found = load_pretrained(output, data)
    assert (len(found.projections), found.hidden, found.dimension) == (len(sizes), 8, 5)
    assert [a.shape for a in found.projections] == [(8, 5)] * len(sizes)
    assert [a.shape for a in found.items] == [(n, 8) for n in sizes]
    expected = {f"{what}_{n}" for what in ("projection", "items") for n in range(1, len(sizes) + 1)}
    assert set(load_checkpoint(output).arrays) == expected
    assert [d["name"] for d in found.description["domains"]] == list("abc"[: len(sizes)])
    pretrain(small_world.folder, titles, tmp_path / "two.npz", short)
    two = load_pretrained(tmp_path / "two.npz")
    assert np.array_equal(found.items[0], two.items[0]) == (len(sizes) == 3)
    sizes_found = " and ".join(map(str, sizes))
    with pytest.raises(DataError, match=f"is of {sizes_found} items, the data set has 30 and 36"):
        load_pretrained(output, small_world.data)


def changed(**changes: Any) -> Callable[[Path, Path], None]:
    """Write the file anew with some arrays changed, or left out (None)."""

    def write(source: Path, path: Path) -> None:
        checkpoint = load_checkpoint(source)
        arrays = {k: v for k, v in {**checkpoint.arrays, **changes}.items() if v is not None}
        save_checkpoint(path, Checkpoint(arrays, checkpoint.description))

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda source, path: None, "no such file"),
        (lambda source, path: path.write_bytes(b"hello"), "not a file of `llmcdsr pretrain`"),
        (changed(items_2=None), "not a file of `llmcdsr pretrain`"),
        (changed(items_1=np.zeros((30, 8))), "must be finite float32"),
        (changed(items_1=np.full((30, 8), np.nan, dtype=np.float32)), "must be finite float32"),
        (changed(items_1=np.zeros((30, 7), dtype=np.float32)), "do not fit together"),
        (changed(projection_2=np.zeros((8, 6), dtype=np.float32)), "do not fit together"),
        (changed(items_1=np.zeros((29, 8), dtype=np.float32)), "29 and 36 items, the data set has 30 and 36"),
    ],
)
def test_files_that_are_refused(
    small_world: Any, undisturbed: Any, tmp_path: Path, write: Callable[[Path, Path], Any], message: str
) -> None:
    path = tmp_path / "pretrained.npz"
    write(undisturbed.output, path)
    with pytest.raises(DataError, match=message) as caught:
        load_pretrained(path, small_world.data)
    assert str(caught.value).startswith(str(path))


def test_the_command(small_world: Any, titles: Path, tmp_path: Path, llmcdsr: Any) -> None:
    output = tmp_path / "pretrained.npz"
    options = ("--epochs", "2", "--hidden", "8", "--blocks", "1", "--max-length", "10", "--loss", "bce")
    arguments = ("pretrain", small_world.folder, "--text-embeddings", titles, "-o", output, *options)
    done = llmcdsr(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["food", "tools"]
    assert "a title finds its item at median rank" in lines[0]
    assert done.stderr.decode().count("validation HR@10") == 4
    settings = load_pretrained(output).description["settings"]
    assert (settings["n_epochs"], settings["hidden"], settings["contrastive_weight"]) == (2, 8, 0.1)
    again = llmcdsr(*arguments)
    assert again.returncode == 1
    assert "exists already" in again.stderr.decode()
    assert "Traceback" not in again.stderr.decode()
