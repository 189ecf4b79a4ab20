"""The text encoder on a tiny model, against the same formulas in float64, one text at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from llmcdsr_lite.encoder import TextEncoder
from llmcdsr_lite.errors import BundleError, DataError, MissingDependencyError, UsageError

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


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return make_tiny_model()


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


@pytest.fixture
def folder(tmp_path: Path, tiny: TinyModel) -> Path:
    return write_encoder(tmp_path / "encoder", tiny)


def assert_close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6)


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


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [({"pooling_mode": "cls"}, "cls"), ({"pooling_mode": ["cls"]}, "cls"), ({}, "mean")],
)
def test_newer_versions_name_the_pooling(
    folder: Path, tiny: TinyModel, fields: dict[str, Any], pooling: str
) -> None:
    write_json(folder / "1_Pooling/config.json", {"embedding_dimension": E, **fields})
    texts = make_texts(5)
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts, pooling))


def test_a_model_and_a_tokenizer_are_enough(folder: Path, tiny: TinyModel) -> None:
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx/model.onnx")
    for path in folder.rglob("*.json"):
        if path.name != "tokenizer.json":
            path.unlink()
    write_json(folder / "tokenizer_config.json", {"model_max_length": int(1e30)})  # "none"
    texts = make_texts(10)
    encoder = TextEncoder.load(folder)
    assert encoder.config.max_length == 512
    assert_close(encoder.encode(texts), tiny.vectors(texts))


def test_the_transformer_may_be_in_a_folder_of_its_own(folder: Path, tiny: TinyModel) -> None:
    (folder / "0_Transformer").mkdir()
    for name in ("model.onnx", "tokenizer.json", "sentence_bert_config.json", "config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    texts = make_texts(10)
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts))


def test_texts_are_cut_to_the_smallest_limit(folder: Path, tiny: TinyModel) -> None:
    texts = make_texts(30, longest=40)
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts, max_length=PLACES))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 11})
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts, max_length=11))
    write_json(folder / "tokenizer_config.json", {"model_max_length": 9})
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts, max_length=9))
    write_json(folder / "tokenizer_config.json", {"model_max_length": int(1e30)})  # "none"
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts, max_length=11))
    assert_close(TextEncoder.load(folder, max_length=5).encode(texts), tiny.vectors(texts, max_length=5))


@pytest.mark.parametrize("max_length", [2, PLACES + 1])
def test_a_limit_must_leave_room_and_keep_the_folders(folder: Path, max_length: int) -> None:
    with pytest.raises(UsageError, match=f"max_length is {max_length}, expected 3 to {PLACES}"):
        TextEncoder.load(folder, max_length=max_length)


def test_prompts_go_before_every_text(folder: Path, tiny: TinyModel) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    texts = make_texts(10)
    prefixed = {name: tiny.vectors([prompt + t for t in texts]) for name, prompt in prompts.items()}
    path = folder / "config_sentence_transformers.json"
    write_json(path, {"prompts": prompts, "default_prompt_name": None})
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts))
    assert_close(TextEncoder.load(folder, prompt="query").encode(texts), prefixed["query"])
    write_json(path, {"prompts": prompts, "default_prompt_name": "document"})
    assert_close(TextEncoder.load(folder).encode(texts), prefixed["document"])
    assert not TextEncoder.load(folder).encode([" "]).any()
    with pytest.raises(UsageError, match="no prompt 'title'; it has query, document"):
        TextEncoder.load(folder, prompt="title")


def test_lower_case_where_the_folder_asks_for_it(folder: Path, tiny: TinyModel) -> None:
    texts = ["Red pan", "THE bean"]
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(texts))
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert_close(TextEncoder.load(folder).encode(texts), tiny.vectors(["red pan", "the bean"]))


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", None, "has neither model.onnx nor onnx/model.onnx; it has no .onnx file"),
        ("model.onnx", "no graph", "model.onnx: onnxruntime does not load it"),
        ("tokenizer.json", None, "tokenizer.json: is missing"),
        ("tokenizer.json", "{}", "tokenizer.json: is not a tokenizer"),
        ("tokenizer.json", "{", "tokenizer.json: not valid JSON"),
        ("config.json", "[]", "config.json: must be a JSON object"),
        ("config.json", '{"max_position_embeddings": "many"}', "'max_position_embeddings' is 'many'"),
        ("sentence_bert_config.json", '{"max_seq_length": 1.5}', "'max_seq_length' is 1.5"),
        ("tokenizer_config.json", '{"model_max_length": Infinity}', "'model_max_length' is inf"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_max_tokens": true}',
            "pooling is .'pooling_mode_max_tokens'",
        ),
        ("1_Pooling/config.json", '{"pooling_mode": "lasttoken"}', "pooling is .'lasttoken'"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": false}', "pooling is .., expected one of"),
        ("1_Pooling/config.json", '{"pooling_mode": "mean", "include_prompt": false}', "'include_prompt'"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode": "mean", "embedding_dimension": 384}',
            "gives 6 values a text, the folder states 384",
        ),
        ("modules.json", "{}", "lists nothing; expected Transformer, Pooling"),
        ("modules.json", '[{"type": 1}]', "must list modules, each with type and path"),
        ("modules.json", '[{"type": "a.Transformer", "path": "../.."}]', "is outside the folder"),
        (
            "modules.json",
            '[{"type": "Transformer", "path": ""}, {"type": "s.Dense", "path": "2_Dense"}]',
            "lists Transformer, Dense; expected",
        ),
        ("config_sentence_transformers.json", '{"prompts": ["a"]}', "'prompts' must map names to strings"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "q"}', "no prompt 'q'; it has none"),
    ],
)
def test_a_folder_that_does_not_add_up_is_refused(
    folder: Path, name: str, content: str | None, message: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(BundleError, match=message):
        TextEncoder.load(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: no such folder"):
        TextEncoder.load(tmp_path / "nowhere")


def test_other_models_in_the_folder_are_named(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "model_int8.onnx")
    with pytest.raises(BundleError, match=r"it has model_int8\.onnx"):
        TextEncoder.load(folder)


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
