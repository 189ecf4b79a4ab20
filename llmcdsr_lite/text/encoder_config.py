"""Configuration of a Hugging Face style encoder folder.

Read from it; a file that is not there stands for its default:

============================== =============================================== =====================
file                           what is taken                                   without it
============================== =============================================== =====================
model.onnx, onnx/model.onnx    the encoder, the first of the two               refused
tokenizer.json                 the tokenizer; its own cutting and padding      refused
                               are overruled by what follows
modules.json                   where the other files are, and whether vectors  this folder,
                               are normalised                                  1_Pooling, normalised
1_Pooling/config.json          pooling, ``mean`` or ``cls``; E, as a check     mean
sentence_bert_config.json      max_seq_length; do_lower_case                   as they come
tokenizer_config.json          model_max_length                                no limit
config.json                    max_position_embeddings; pad_token_id           no limit; 0
config_sentence_transformers   prompts, default_prompt_name                    no prefix
============================== =============================================== =====================

A text is cut to the smallest limit that is stated, 512 tokens if none is. A graph whose output is
(n, E) pools by itself: the pooling of the configuration is then left alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from llmcdsr_lite.errors import BundleError, UsageError

MODEL_FILES = ("model.onnx", "onnx/model.onnx")
TOKENIZER = "tokenizer.json"
DEFAULT_MAX_LENGTH = 512
Pooling = Literal["mean", "cls"]

_POOLING_FLAGS: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_UNBOUNDED = 10**6  # tokenizers without a limit state one like 1e30


@dataclass(frozen=True)
class EncoderConfig:
    """How the texts of one encoder folder are turned into vectors.

    Parameters
    ----------
    model : Path
        The ONNX file.
    tokenizer : Path
        The tokenizer file.
    pooling : {"mean", "cls"}
        Mean of the token vectors, or the first one.
    normalize : bool
        Whether vectors get length 1.
    max_length : int
        Longest text in tokens, special ones included; what is beyond is cut off.
    prefix : str
        Put before every text.
    lowercase : bool
        Whether texts are put in lower case first.
    pad_id : int
        Token that fills up a batch.
    dimension : int or None
        E, where the folder states it.
    """

    model: Path
    tokenizer: Path
    pooling: Pooling
    normalize: bool
    max_length: int
    prefix: str
    lowercase: bool
    pad_id: int
    dimension: int | None


def read_encoder_config(folder: Path, prompt: str | None = None) -> EncoderConfig:
    """Read the configuration of an encoder folder.

    Parameters
    ----------
    folder : Path
    prompt : str, optional
        Name of the folder's prompt that becomes the prefix; its default prompt if not given.

    Raises
    ------
    BundleError
        If a file is missing, damaged, or asks for something that is not supported.
    UsageError
        If the folder has no prompt of that name.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder, expected an encoder folder")
    root, pooling_folder, normalize = _read_modules(folder)
    model = next((root / name for name in MODEL_FILES if (root / name).is_file()), None)
    if model is None:
        others = ", ".join(sorted(str(p.relative_to(root)) for p in root.rglob("*.onnx"))) or "no .onnx file"
        raise BundleError(f"{root}: has neither {' nor '.join(MODEL_FILES)}; it has {others}")
    if not (root / TOKENIZER).is_file():
        raise BundleError(f"{root / TOKENIZER}: is missing")
    sentence, tokenizer, transformer = (
        _Fields.read(root / name)
        for name in ("sentence_bert_config.json", "tokenizer_config.json", "config.json")
    )
    limits = (
        sentence.whole("max_seq_length"),
        tokenizer.whole("model_max_length"),
        transformer.whole("max_position_embeddings"),
    )
    padding = _Fields.read(root / TOKENIZER).values.get("padding")
    in_tokenizer = _Fields(root / TOKENIZER, padding if isinstance(padding, dict) else {})
    pooling, dimension = _read_pooling(pooling_folder / "config.json")
    return EncoderConfig(
        model=model,
        tokenizer=root / TOKENIZER,
        pooling=pooling,
        normalize=normalize,
        max_length=min((n for n in limits if n and n < _UNBOUNDED), default=DEFAULT_MAX_LENGTH),
        prefix=_read_prefix(folder, prompt),
        lowercase=sentence.values.get("do_lower_case") is True,
        pad_id=in_tokenizer.whole("pad_id") or transformer.whole("pad_token_id") or 0,
        dimension=dimension,
    )


@dataclass(frozen=True)
class _Fields:
    """A JSON object and the file that it is from; empty for a file that is not there."""

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Fields:
        values = _read_json(path, {})
        if not isinstance(values, dict):
            raise BundleError(f"{path}: must be a JSON object")
        return cls(path, values)

    def whole(self, name: str) -> int | None:
        """A number from 0, None if the field is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
            raise BundleError(f"{self.path}: field {name!r} is {value!r}, expected a whole number from 0")
        return int(value)


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON: {error}") from None


def _read_modules(folder: Path) -> tuple[Path, Path, bool]:
    """Folder of the transformer, folder of the pooling, and whether vectors are normalised."""
    path = folder / "modules.json"
    modules = _read_json(path, None)
    if modules is None:
        return folder, folder / "1_Pooling", True
    places: dict[str, Path] = {}
    try:
        for module in modules:
            name = module["type"].rpartition(".")[2]
            places[name] = folder / module["path"]
    except (TypeError, KeyError, AttributeError):
        raise BundleError(f"{path}: must list modules, each with type and path") from None
    unknown = set(places) - {"Transformer", "Pooling", "Normalize"}
    if unknown or "Transformer" not in places:
        found = ", ".join(places) or "nothing"
        raise BundleError(f"{path}: lists {found}; expected Transformer, Pooling and at most Normalize")
    for place in places.values():
        if not place.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: {str(place)!r} is outside the folder")
    return places["Transformer"], places.get("Pooling", folder / "1_Pooling"), "Normalize" in places


def _read_pooling(path: Path) -> tuple[Pooling, int | None]:
    """Pooling and E, from the flags of older versions or the name that newer ones write."""
    fields = _Fields.read(path)
    flags = {name: on for name, on in fields.values.items() if name.startswith("pooling_mode_")}
    named = fields.values.get("pooling_mode")
    if named:
        found = named if isinstance(named, list) else [named]
    elif flags:
        found = [_POOLING_FLAGS.get(name, name) for name, on in flags.items() if on]
    else:
        found = ["mean"]
    if found not in (["mean"], ["cls"]):
        raise BundleError(f"{path}: pooling is {found}, expected one of mean and cls")
    if fields.values.get("include_prompt") is False:
        raise BundleError(f"{path}: field 'include_prompt' is false; leaving the prompt out is not supported")
    dimension = fields.whole("word_embedding_dimension") or fields.whole("embedding_dimension")
    return cast(Pooling, found[0]), dimension


def _read_prefix(folder: Path, prompt: str | None) -> str:
    fields = _Fields.read(folder / "config_sentence_transformers.json")
    prompts = fields.values.get("prompts") or {}
    name = fields.values.get("default_prompt_name") if prompt is None else prompt
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise BundleError(f"{fields.path}: field 'prompts' must map names to strings")
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        message = f"{fields.path}: no prompt {name!r}; it has {', '.join(prompts) or 'none'}"
        raise BundleError(message) if prompt is None else UsageError(message)
    return cast(str, prompts[name])
