"""A tiny encoder whose vectors a formula gives, and folders of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("query:", "passage:", "red", "Red", "blue", "pan", "pot", "bean", "tea", "the", "a", "of", "and")
E, PLACES = 6, 24


@dataclass(frozen=True)
class TinyModel:
    """Random weights; every token sees the mean of the real tokens, so wrong masks show."""

    table: npt.NDArray[np.float32]  # (vocabulary, E)
    places: npt.NDArray[np.float32]  # (PLACES, E)
    mix: npt.NDArray[np.float32]  # (E, E)
    types: npt.NDArray[np.float32]  # (2, E)
    vocabulary: dict[str, int] = field(
        default_factory=lambda: {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    )

    def ids(self, text: str, max_length: int) -> list[int]:
        words = [self.vocabulary.get(word, 1) for word in text.split()]
        return [2, *words[: max_length - 2], 3]

    def vector(self, ids: list[int], pooling: str, normalize: bool) -> npt.NDArray[np.float64]:
        x = self.table[ids].astype(np.float64) + self.places[: len(ids)] + self.types[0]
        hidden = np.tanh(x @ self.mix + x.mean(axis=0))
        pooled = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
        return pooled / np.sqrt((pooled**2).sum()) if normalize else pooled

    def vectors(
        self, texts: list[str], pooling: str = "mean", normalize: bool = True, max_length: int = PLACES
    ) -> npt.NDArray[np.float64]:
        return np.array([self.vector(self.ids(t, max_length), pooling, normalize) for t in texts])


def make_tiny_model() -> TinyModel:
    rng = np.random.default_rng(11)
    shapes = ((len(SPECIAL) + len(WORDS), E), (PLACES, E), (E, E), (2, E))
    return TinyModel(*(rng.normal(0, 0.7, shape).astype(np.float32) for shape in shapes))


def build_graph(
    model: TinyModel,
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    input_type: int = TensorProto.INT64,
    quantized: bool = False,
    pooled: bool = False,
) -> bytes:
    """The model as an ONNX graph, optionally with activations quantised on the fly, or pooling inside."""
    constants = {
        "table": model.table,
        "place_table": model.places,
        "type_table": model.types,
        "mix": model.mix,
        "mix8": np.round(model.mix * 40).astype(np.int8),
        "mix8_scale": np.float32(1 / 40),
        "zero": np.int64(0),
        "one": np.int64(1),
        "axis1": np.array([1]),
        "axis2": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["words"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["range"]),
        node("Gather", ["place_table", "range"], ["places"]),
        node("Add", ["words", "places"], ["placed"]),
        node("Cast", ["attention_mask"], ["mask2"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask2", "axis2"], ["mask"]),
    ]
    if "token_type_ids" in inputs:
        nodes += [node("Gather", ["type_table", "token_type_ids"], ["typed"])]
    else:
        constants["typed"] = model.types[0]
    nodes += [node("Add", ["placed", "typed"], ["x"])]
    if quantized:
        nodes += [
            node("DynamicQuantizeLinear", ["x"], ["x8", "x_scale", "x_zero"]),
            node("MatMulInteger", ["x8", "mix8", "x_zero"], ["product8"]),
            node("Cast", ["product8"], ["product_float"], to=TensorProto.FLOAT),
            node("Mul", ["product_float", "x_scale"], ["scaled"]),
            node("Mul", ["scaled", "mix8_scale"], ["product"]),
        ]
    else:
        nodes += [node("MatMul", ["x", "mix"], ["product"])]
    nodes += [
        node("Mul", ["x", "mask"], ["masked"]),
        node("ReduceSum", ["masked", "axis1"], ["sum"]),
        node("ReduceSum", ["mask", "axis1"], ["count"]),
        node("Div", ["sum", "count"], ["mean"]),
        node("Add", ["product", "mean"], ["mixed"]),
        node("Tanh", ["mixed"], ["last_hidden_state"]),
        node("Gather", ["last_hidden_state", "zero"], ["sentence_embedding"], axis=1),
    ]
    output, shape = ("sentence_embedding", ["n", E]) if pooled else ("last_hidden_state", ["n", "T", E])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, input_type, ["n", "T"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_encoder(folder: Path, model: TinyModel, **graph: Any) -> Path:
    """A folder as sentence-transformers writes it; the tokenizer's own limits are wrong on purpose."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(build_graph(model, **graph))
    tokenizer = Tokenizer(WordLevel(model.vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=20, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    types = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"type": f"sentence_transformers.models.{t}", "path": p} for t, p in zip(types, paths, strict=True)
    ]
    write_json(folder / "modules.json", modules)
    write_pooling(folder, "mean")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": PLACES, "do_lower_case": False})
    write_json(folder / "config.json", {"max_position_embeddings": PLACES, "pad_token_id": 0})
    return folder


def write_pooling(folder: Path, pooling: str) -> None:
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": E, **flags})


def make_texts(n: int, longest: int = 15) -> list[str]:
    rng = np.random.default_rng(n)
    return [" ".join(rng.choice([*WORDS, "unheard"], rng.integers(1, longest + 1))) for _ in range(n)]


def assert_close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6)
