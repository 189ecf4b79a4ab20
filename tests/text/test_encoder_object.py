"""Objects of other libraries as encoders: the real classes, on tiny models that are made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import PLACES, WORDS, E, make_tiny_model, write_encoder

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.text.encoder import TextEncoder
from llmcdsr_lite.text.encoder_object import EncoderObject, open_encoder

TEXTS = ["red pan", "", "blue tea of the pot", " ", "bean"]
VOCABULARY = {"[UNK]": 0, **{word: n for n, word in enumerate(WORDS, 1)}}
TABLE = np.random.default_rng(3).normal(size=(len(VOCABULARY), E)).astype(np.float32)


def of_model2vec(folder: Path) -> tuple[Any, Callable[[str], Any]]:
    model2vec = pytest.importorskip("model2vec", reason="model2vec is not installed")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    model = model2vec.StaticModel(TABLE, tokenizer)
    return model, lambda text: TABLE[[VOCABULARY[word] for word in text.split()]].mean(axis=0)


def of_fastembed(folder: Path) -> tuple[Any, Callable[[str], Any]]:
    fastembed = pytest.importorskip("fastembed", reason="fastembed is not installed")
    from fastembed.common.model_description import ModelSource, PoolingType

    tiny = make_tiny_model()
    write_encoder(folder / "tiny", tiny)
    for file, content in (  # what fastembed reads besides
        ("tokenizer_config.json", {"model_max_length": PLACES, "pad_token": "[PAD]"}),
        ("special_tokens_map.json", {"pad_token": "[PAD]"}),
    ):
        (folder / "tiny" / file).write_text(json.dumps(content), encoding="utf-8")
    name = f"test/{folder.name}"
    fastembed.TextEmbedding.add_custom_model(
        name, PoolingType.MEAN, True, ModelSource(hf="test/none"), E, model_file="model.onnx"
    )
    model = fastembed.TextEmbedding(name, specific_model_path=str(folder / "tiny"), threads=1)
    return model, lambda text: tiny.vectors([text])[0]


class Plain:
    """The least that an encoder is; a list of lists is an array, too."""

    def encode(self, texts: list[str]) -> list[list[float]]:
        return [[len(text), 1.0, *([0.0] * (E - 2))] for text in texts]


def of_ones_own(folder: Path) -> tuple[Any, Callable[[str], Any]]:
    return Plain(), lambda text: [len(text), 1] + [0] * (E - 2)


MAKERS = [of_model2vec, of_fastembed, of_ones_own]


@pytest.mark.parametrize("make", MAKERS)
def test_vectors(make: Callable[[Path], tuple[Any, Callable[[str], Any]]], tmp_path: Path) -> None:
    model, vector = make(tmp_path)
    encoder = open_encoder(model)
    assert encoder.dimension == E
    done: list[tuple[int, int]] = []
    found = encoder.encode(TEXTS, 1, lambda *n: done.append(n))
    assert (found.dtype, found.shape) == (np.float32, (5, E))
    expected = [vector(text) if text.strip() else np.zeros(E) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert done[-1] == (5, 5)
    assert encoder.encode([]).shape == (0, E)
    with pytest.raises(UsageError, match="texts is one string"):
        encoder.encode("red pan")
    assert encoder.fingerprint() == open_encoder(model).fingerprint()


def test_a_folder_and_what_is_an_encoder_already(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "tiny", make_tiny_model())
    encoder = open_encoder(str(folder))
    assert isinstance(encoder, TextEncoder)
    assert open_encoder(encoder) is encoder


def gives(value: Any, after: Any = None) -> Any:
    class Model:
        n_calls = 0

        def encode(self, texts: list[str]) -> Any:
            self.n_calls += 1
            return value if self.n_calls == 1 or after is None else after

    return Model()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "encoder is int, expected a folder or an object with encode"),
        (gives(np.zeros(4)), r"Model gives an array of shape \(4,\) for one text, expected \(1, E\)"),
        (gives(np.zeros((1, 0))), r"shape \(1, 0\) for one text"),
        (gives(None), r"Model gives None, expected an array \(n, E\)"),
        (gives("vectors"), r"Model gives 'vectors', expected an array"),
    ],
)
def test_what_is_no_encoder(model: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_encoder(model)


def test_answers_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"gives an array of shape \(1, 3\), expected \(2, 3\)"):
        EncoderObject(gives(np.ones((1, 3)))).encode(["a", "b"])
    bad = np.ones((2, 3))
    bad[1, 2] = np.nan
    with pytest.raises(DataError, match="text 2: Model gives it a vector that is not finite"):
        EncoderObject(gives(np.ones((1, 3)), bad)).encode(["a", "", "b"])
