"""The text encoder on a tiny model, against the same formulas in float64, one text at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_encoder import (
    PLACES,
    SPECIAL,
    WORDS,
    E,
    TinyModel,
    assert_close,
    make_texts,
    make_tiny_model,
    write_encoder,
    write_json,
    write_pooling,
)

from llmcdsr_lite.errors import BundleError, DataError, MissingDependencyError, UsageError
from llmcdsr_lite.text.encoder import TextEncoder


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return make_tiny_model()


@pytest.fixture
def folder(tmp_path: Path, tiny: TinyModel) -> Path:
    return write_encoder(tmp_path / "encoder", tiny)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_are_those_of_the_formulas(
    folder: Path, tiny: TinyModel, pooling: str, normalize: bool, batch_size: int
) -> None:
    write_pooling(folder, pooling)
    if not normalize:
        modules = json.loads((folder / "modules.json").read_text())
        write_json(folder / "modules.json", modules[:2])
    texts = make_texts(40)
    encoder = TextEncoder.load(folder)
    assert encoder.dimension == E
    assert_close(encoder.encode(texts, batch_size), tiny.vectors(texts, pooling, normalize))


@pytest.mark.parametrize(
    "graph",
    [
        {"inputs": ("input_ids", "attention_mask")},
        {"inputs": ("attention_mask", "input_ids", "token_type_ids")},
        {"input_type": TensorProto.INT32},
    ],
    ids=["no token types", "another order", "int32"],
)
def test_inputs_are_those_of_the_graph(tmp_path: Path, tiny: TinyModel, graph: dict[str, Any]) -> None:
    texts = make_texts(20)
    found = TextEncoder.load(write_encoder(tmp_path / "encoder", tiny, **graph)).encode(texts)
    assert_close(found, tiny.vectors(texts))


def test_a_graph_that_pools_is_left_to_it(tmp_path: Path, tiny: TinyModel) -> None:
    texts = make_texts(20)
    found = TextEncoder.load(write_encoder(tmp_path / "encoder", tiny, pooled=True)).encode(texts)
    assert_close(found, tiny.vectors(texts, "cls"))  # what the graph does, whatever the folder says


def test_texts_that_say_nothing_are_zero(folder: Path, tiny: TinyModel) -> None:
    found = TextEncoder.load(folder).encode(["", "red pan", " \t\n", "\u2003"])
    assert not found[[0, 2, 3]].any()
    assert_close(found[1:2], tiny.vectors(["red pan"]))
    assert TextEncoder.load(folder).encode([]).shape == (0, E)


def test_texts_that_leave_no_token_are_zero(folder: Path, tiny: TinyModel) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "!"}, "content": ""}
    write_json(folder / "tokenizer.json", tokenizer)
    found = TextEncoder.load(folder).encode(["!!", "red!"])
    assert not found[0].any()
    assert_close(found[1:], tiny.vectors(["red"]))


def test_the_batch_is_filled_with_the_pad_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models number positions by where the pad token is, so any other number would be wrong."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["padding"]["pad_id"] = 7
    write_json(folder / "tokenizer.json", tokenizer)
    encoder = TextEncoder.load(folder)
    seen = []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda ids, mask: seen.append((ids, mask)) or run(ids, mask))
    encoder.encode(["red", "red red red"])
    ((ids, mask),) = seen
    red = len(SPECIAL) + WORDS.index("red")
    assert ids.tolist() == [[2, red, 3, 7, 7], [2, red, red, red, 3]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_short_texts_come_first_and_progress_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.load(folder)
    widths, told = [], []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda ids, mask: widths.append(ids.shape) or run(ids, mask))
    texts = ["red " * n for n in (5, 1, 0, 3, 3, 2)]
    encoder.encode(texts, 2, lambda done, n: told.append((done, n)))
    assert widths == [(2, 4), (2, 5), (1, 7)]
    assert told == [(3, 6), (5, 6), (6, 6)]


def test_a_vector_does_not_depend_on_its_batch(folder: Path) -> None:
    texts = make_texts(50)
    encoder = TextEncoder.load(folder)
    alone = encoder.encode(texts, batch_size=1)
    np.testing.assert_allclose(encoder.encode(texts, batch_size=50), alone, atol=1e-6)


def test_quantised_activations_depend_on_the_batch_and_batches_on_the_texts_alone(
    tmp_path: Path, tiny: TinyModel
) -> None:
    encoder = TextEncoder.load(write_encoder(tmp_path / "encoder", tiny, quantized=True))
    texts = make_texts(50)
    together = encoder.encode(texts, batch_size=16)
    assert together.tobytes() == encoder.encode(texts, batch_size=16).tobytes()
    alone = encoder.encode(texts, batch_size=1)
    assert np.abs(together - alone).max() > 1e-4  # the noise that the class warns of
    shuffled = np.random.default_rng(0).permutation(50)
    again = encoder.encode([texts[i] for i in shuffled], batch_size=1)
    assert again.tobytes() == alone[shuffled].tobytes()
    np.testing.assert_allclose(alone, tiny.vectors(texts), atol=0.05)


def test_a_fingerprint_tells_encoders_apart_but_not_places(folder: Path, tmp_path: Path) -> None:
    first = TextEncoder.load(folder).fingerprint()
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert TextEncoder.load(moved).fingerprint() == first
    found = {first, TextEncoder.load(folder, max_length=9).fingerprint()}
    (moved / "model.onnx_data").write_bytes(b"weights outside the graph")
    found.add(TextEncoder.load(moved).fingerprint())
    write_pooling(folder, "cls")
    found.add(TextEncoder.load(folder).fingerprint())
    assert len(found) == 4


def test_a_graph_with_another_purpose_is_refused(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx")
    graph.graph.input[1].name = "pixel_values"
    for node in graph.graph.node:
        node.input[:] = ["pixel_values" if name == "attention_mask" else name for name in node.input]
    onnx.save(graph, folder / "model.onnx")
    with pytest.raises(BundleError, match="its inputs are input_ids, pixel_values, token_type_ids"):
        TextEncoder.load(folder)


def test_a_text_beyond_the_graph_names_the_batch(folder: Path) -> None:
    for name in ("sentence_bert_config.json", "config.json"):
        (folder / name).unlink()  # so nothing says that the graph has no more than PLACES positions
    with pytest.raises(BundleError, match=f"fails on 1 texts of {PLACES + 1} tokens"):
        TextEncoder.load(folder).encode(["red " * (PLACES - 1)])


def test_texts_that_cannot_be_meant_are_refused(folder: Path) -> None:
    encoder = TextEncoder.load(folder)
    with pytest.raises(UsageError, match="texts is one string"):
        encoder.encode("red pan")
    with pytest.raises(UsageError, match="batch_size is 0"):
        encoder.encode(["red pan"], batch_size=0)
    with pytest.raises(DataError, match="text 1: is not valid Unicode"):
        encoder.encode(["red", "half a \ud83d"])
    with pytest.raises(DataError, match="text 0: is NoneType, expected str"):
        encoder.encode([None])  # type: ignore[list-item]


def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path, tiny: TinyModel) -> None:
    broken = make_tiny_model()
    broken.table[broken.vocabulary["tea"]] = np.nan
    encoder = TextEncoder.load(write_encoder(tmp_path / "encoder", broken))
    assert encoder.encode(["red", "pan"]).any()
    with pytest.raises(DataError, match=r"text 1: .*model\.onnx gives it a vector that is not finite"):
        encoder.encode(["red red red", "tea"])


@pytest.mark.parametrize("name", ["tokenizers", "onnxruntime"])
def test_a_missing_package_names_the_installation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llmcdsr-lite\[text\]'"):
        TextEncoder.load(folder)


def test_a_real_encoder_puts_like_titles_together() -> None:
    if "LLMCDSR_ENCODER" not in os.environ:
        pytest.skip("LLMCDSR_ENCODER names no encoder folder")
    texts = ["stovetop espresso maker", "moka pot for coffee", "chef's knife", "knife for the kitchen", ""]
    encoder = TextEncoder.load(Path(os.environ["LLMCDSR_ENCODER"]))
    vectors = encoder.encode(texts)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1)
    assert cosine[:4, :4].argmax(axis=1).tolist() == [1, 0, 3, 2]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0], atol=1e-5)
    alone = encoder.encode(texts, batch_size=1)
    assert (vectors * alone).sum(axis=1)[:4].min() > 0.98  # beyond that, quantisation is no mere noise
