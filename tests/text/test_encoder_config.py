"""What is read from an encoder folder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_encoder import (
    PLACES,
    E,
    TinyModel,
    assert_close,
    make_texts,
    make_tiny_model,
    write_encoder,
    write_json,
)

from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.text.encoder import TextEncoder


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return make_tiny_model()


@pytest.fixture
def folder(tmp_path: Path, tiny: TinyModel) -> Path:
    return write_encoder(tmp_path / "encoder", tiny)


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
