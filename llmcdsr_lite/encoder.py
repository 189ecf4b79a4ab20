"""Text to embedding: a Hugging Face style encoder folder, onnxruntime and tokenizers; no PyTorch.

Read from the folder; a file that is not there stands for its default:

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

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import BundleError, DataError, MissingDependencyError, UsageError

MODEL_FILES = ("model.onnx", "onnx/model.onnx")
TOKENIZER = "tokenizer.json"
DEFAULT_MAX_LENGTH = 512
DEFAULT_BATCH_SIZE = 16  # more is no faster on one thread, and takes more memory
Pooling = Literal["mean", "cls"]

_POOLING_FLAGS: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
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


class TextEncoder:
    """Turns texts into vectors; `TextEncoder.load` makes one.

    The same texts in the same order with the same batch size give the same vectors. For most models
    a vector does not depend on the other texts of its batch beyond rounding. A model that quantises
    its activations on the fly (``DynamicQuantizeLinear``) takes their scale from the whole batch:
    with such a one, only ``batch_size=1`` gives a text the same vector in any company.

    Example
    -------
    >>> encoder = TextEncoder.load(Path("minilm"))  # doctest: +SKIP
    >>> encoder.encode(["Stovetop espresso maker", "Dark roast beans"]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(self, config: EncoderConfig, session: Any, tokenizer: Any) -> None:
        self.config = config
        self._session = session
        self._tokenizer = tokenizer
        self._input_types = {i.name: i.type for i in session.get_inputs()}
        self.dimension = self._check()

    @classmethod
    def load(
        cls, folder: Path, threads: int = 1, *, prompt: str | None = None, max_length: int | None = None
    ) -> TextEncoder:
        """Load an encoder folder.

        Parameters
        ----------
        folder : Path
            See the table of this module.
        threads : int
            Threads inside one operator.
        prompt : str, optional
            Name of the folder's prompt that goes before every text; its default prompt if not given.
        max_length : int, optional
            Cut texts to fewer tokens than the folder's limit.

        Raises
        ------
        MissingDependencyError
            If onnxruntime or tokenizers is not installed.
        BundleError
            If a file is missing, damaged, does not fit the others, or needs what is not supported.
        UsageError
            If the folder has no such prompt, or `max_length` is beyond its limit or leaves no room
            for a word.
        """
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"encoding text needs onnxruntime and tokenizers ({error}): pip install 'llmcdsr-lite[text]'"
            ) from None
        config = read_encoder_config(folder, prompt)
        try:
            tokenizer = Tokenizer.from_file(str(config.tokenizer))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{config.tokenizer}: is not a tokenizer: {error}") from None
        length = config.max_length if max_length is None else max_length
        least = tokenizer.num_special_tokens_to_add(is_pair=False) + 1
        if not least <= length <= config.max_length:
            raise UsageError(
                f"max_length is {length}, expected {least} to {config.max_length} tokens for {folder}"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised; nothing is printed on our caller's stderr
        try:
            session = onnxruntime.InferenceSession(
                str(config.model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise BundleError(f"{config.model}: onnxruntime does not load it: {error}") from None
        return cls(EncoderConfig(**{**vars(config), "max_length": length}), session, tokenizer)

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts.

        Texts of like length share a batch, so little is computed on padding. A text that is empty,
        blank or without a single token says nothing: its vector is zero.

        Parameters
        ----------
        texts : sequence of n str
        batch_size : int
        progress : callable, optional
            Called after every batch with the number of texts done and n.

        Returns
        -------
        float32 array (n, E)
            In the order of `texts`.

        Raises
        ------
        UsageError
            If `texts` is one string, or `batch_size` less than 1.
        DataError
            If a text is not valid Unicode, or its vector is not finite.
        """
        if isinstance(texts, str):
            raise UsageError("texts is one string, expected a sequence of them")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, expected 1 or more")
        tokens = [self._tokenize(i, text) for i, text in enumerate(texts)]
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        order = np.argsort(lengths, kind="stable")
        vectors = np.zeros((len(tokens), self.dimension), dtype=np.float32)
        for start in range(np.count_nonzero(lengths == 0), len(order), batch_size):
            batch = order[start : start + batch_size]
            vectors[batch] = self._encode_batch([tokens[i] for i in batch])
            finite = np.isfinite(vectors[batch]).all(axis=1)
            if not finite.all():
                worst = int(batch[np.argmin(finite)])
                raise DataError(f"text {worst}: {self.config.model} gives it a vector that is not finite")
            if progress is not None:
                progress(start + len(batch), len(order))
        return vectors

    def fingerprint(self) -> str:
        """SHA-256 over all that decides a text's vector: model, tokenizer and configuration."""
        digest = hashlib.sha256()
        for path in (self.config.tokenizer, *sorted(self.config.model.parent.glob("model.onnx*"))):
            with path.open("rb") as file:  # the glob finds weights that are kept outside the graph, too
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(repr(astuple(self.config)[2:]).encode())  # where the folder is does not matter
        return digest.hexdigest()

    def _tokenize(self, index: int, text: str) -> npt.NDArray[np.int64]:
        """Token ids, none for a text that says nothing.

        One by one: a batch would take the tokenizer's own threads, more than the caller asked for.
        """
        nothing = np.empty(0, dtype=np.int64)
        if not isinstance(text, str):
            raise DataError(f"text {index}: is {type(text).__name__}, expected str")
        if not text.strip():
            return nothing
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"text {index}: is not valid Unicode: {error}") from None
        text = self.config.prefix + text
        found = self._tokenizer.encode(text.lower() if self.config.lowercase else text)
        return nothing if all(found.special_tokens_mask) else np.array(found.ids, dtype=np.int64)

    def _encode_batch(self, tokens: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """Vectors (n, E) of texts that have at least one token each."""
        longest = max(len(ids) for ids in tokens)
        input_ids = np.full((len(tokens), longest), self.config.pad_id)  # (n, T)
        mask = np.zeros((len(tokens), longest), dtype=np.int64)
        for row, ids in enumerate(tokens):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        output = self._run(input_ids, mask)
        vectors = output if output.ndim == 2 else _pool(output, mask, self.config.pooling)
        if self.config.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _run(self, input_ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Output of the graph: (n, T, E), or (n, E) where it pools by itself."""
        feeds = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        wanted = {
            name: feeds[name].astype(np.int32 if kind == "tensor(int32)" else np.int64, copy=False)
            for name, kind in self._input_types.items()
        }
        try:
            outputs = self._session.run([self._session.get_outputs()[0].name], wanted)
        except Exception as error:  # as in `load`
            raise BundleError(
                f"{self.config.model}: fails on {mask.shape[0]} texts of {mask.shape[1]} tokens: {error}"
            ) from None
        return cast(npt.NDArray[np.float32], np.asarray(outputs[0], dtype=np.float32))

    def _check(self) -> int:
        """Run the model once: one that does not fit is refused now, not at a request. Returns E."""
        path, names = self.config.model, set(self._input_types)
        if not {"input_ids", "attention_mask"} <= names <= set(_INPUTS):
            raise BundleError(f"{path}: its inputs are {', '.join(sorted(names))}; expected {_INPUTS}")
        mask = np.array([[1, 1], [1, 0]])
        shape = self._run(np.zeros_like(mask), mask).shape
        if len(shape) not in (2, 3) or shape[:-1] != (2, 2)[: len(shape) - 1]:
            raise BundleError(f"{path}: its first output has shape {shape}, expected (2, 2, E) or (2, E)")
        if self.config.dimension not in (None, shape[-1]):
            raise BundleError(
                f"{path}: gives {shape[-1]} values a text, the folder states {self.config.dimension}"
            )
        return int(shape[-1])


def _pool(
    hidden: npt.NDArray[np.float32], mask: npt.NDArray[np.int64], pooling: Pooling
) -> npt.NDArray[np.float32]:
    """Token vectors (n, T, E) to text vectors (n, E)."""
    if pooling == "cls":
        return hidden[:, 0]
    # adding zeros at the end changes no bit of a sum, so the amount of padding does not show
    total = np.where(mask[:, :, np.newaxis] == 1, hidden, np.float32(0)).sum(axis=1)
    return cast(npt.NDArray[np.float32], total / mask.sum(axis=1, keepdims=True).astype(np.float32))


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
