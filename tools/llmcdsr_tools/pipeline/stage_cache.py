"""Outputs of pipeline stages, kept by the hash of what they are made from.

A stage's *key* is the hash of its name, the version of this package, its settings, the content of its
input files and the keys of the stages it builds on. Whatever one of these is changed, the stage and all
after it get another key, and with it another folder, ``work/<stage>/<key>``; what was made before stays
where it is. A stage is done when its folder has the record ``done.json``, and its output and the outputs that
it was made from are still what the record says.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.version import __version__
from llmcdsr_tools.run_folder import file_hash

_RECORD = "done.json"
_KEY_LENGTH = 16  # hexadecimal digits of the folder's name


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Parameters
    ----------
    name : str
    key : str
        See `stage_key`.
    folder : Path
        Of the stage and the key; everything in it belongs to them.
    output : Path
        A file or folder, in `folder` or elsewhere.
    run : callable
        Makes the output, going on where an earlier call was ended.
    appears_whole : bool
        Whether the output is there only when it is complete; false for a folder that fills up.
    after : tuple of Stage
        The stages whose outputs it reads.
    """

    name: str
    key: str
    folder: Path
    output: Path
    run: Callable[[], object] = field(repr=False)
    appears_whole: bool = True
    after: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class StageRecord:
    """Content of done.json.

    Parameters
    ----------
    key : str
    output_sha256 : str
    seconds : float
        Time of the call that completed the output.
    made_from : mapping of str to str
        Hash of the output of each stage that it read.
    """

    key: str
    output_sha256: str
    seconds: float
    made_from: Mapping[str, str]


def stage_key(name: str, settings: Any, files: Mapping[str, Path | None], after: Sequence[Stage]) -> str:
    """Key of a stage.

    Parameters
    ----------
    name : str
    settings : JSON-able
    files : mapping of str to Path or None
        Input files and folders from outside the pipeline, by their part.
    after : sequence of Stage
        The stages whose outputs it reads.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    described = {
        "stage": name,
        "version": __version__,
        "settings": settings,
        "files": {part: None if path is None else tree_hash(path) for part, path in files.items()},
        "after": [stage.key for stage in after],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def stage_folder(work: Path, name: str, key: str) -> Path:
    """Folder of a stage and its key."""
    return work / name / key[:_KEY_LENGTH]


def complete(stage: Stage, made_from: Mapping[str, str]) -> StageRecord:
    """Run a stage that is not `finished`, and record that it is.

    Parameters
    ----------
    stage : Stage
    made_from : mapping of str to str
        Hash of the output of each stage that it reads, by name.
    """
    if (stage.folder / _RECORD).exists():  # the output is not what it was: no part of it is trusted
        shutil.rmtree(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(stage.folder, "")
    start = time.perf_counter()
    inside = stage.output.is_relative_to(stage.folder)
    if not (inside and stage.appears_whole and stage.output.exists()):
        stage.run()
    if not inside:  # not before it is made: an older output may be among them
        _remove_leftovers(stage.output.parent, stage.output.name)
    seconds = time.perf_counter() - start
    record = StageRecord(stage.key, tree_hash(stage.output), seconds, dict(made_from))
    with atomic_file(stage.folder / _RECORD) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return record


def finished(stage: Stage, made_from: Mapping[str, str]) -> StageRecord | None:
    """The record of a stage that is done, its output and what it was made from untouched; else None."""
    try:
        record = StageRecord(**json.loads((stage.folder / _RECORD).read_text(encoding="utf-8")))
        same = record.key == stage.key and record.made_from == made_from
        same = same and record.output_sha256 == tree_hash(stage.output)
    except (OSError, ValueError, TypeError, DataError):
        return None
    return record if same else None


def tree_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names.

    Raises
    ------
    DataError
        If it is not there or cannot be read.
    """
    if not path.is_dir():
        return file_hash(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    content = [f"{p.relative_to(path).as_posix()}\0{file_hash(p)}\n" for p in files]
    return hashlib.sha256("".join(content).encode()).hexdigest()


def _remove_leftovers(folder: Path, name: str) -> None:
    """What atomic writes of a file or folder, of any if `name` is empty, leave when the process is killed."""
    start = f".{glob.escape(name)}." if name else "."
    for ending in (".tmp", ".old"):
        for path in folder.glob(f"{start}*{ending}"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
