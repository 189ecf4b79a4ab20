"""Text to embedding: a Hugging Face style encoder folder, onnxruntime and tokenizers; no PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import BundleError, DataError, MissingDependencyError, UsageError, install_hint
from llmcdsr_lite.model.session import OnnxSession, import_onnxruntime
from llmcdsr_lite.text.encoder_config import EncoderConfig, Pooling, read_encoder_config

DEFAULT_BATCH_SIZE = 16  # more is no faster on one thread, and takes more memory

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


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

    def __init__(self, config: EncoderConfig, session: OnnxSession, tokenizer: Any) -> None:
        self.config = config
        self._session = session
        self._tokenizer = tokenizer
        self._input_types = session.input_types()
        self._output = session.output_names()[0]
        self.dimension = self._check()

    @classmethod
    def load(
        cls, folder: Path, threads: int = 1, *, prompt: str | None = None, max_length: int | None = None
    ) -> TextEncoder:
        """Load an encoder folder.

        Parameters
        ----------
        folder : Path
            See the table of `encoder_config`.
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
            import_onnxruntime()  # before the files are read
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"encoding text needs onnxruntime and tokenizers ({error}): {install_hint('text')}"
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
        try:
            session = OnnxSession(str(config.model), threads)
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
            outputs = self._session.run([self._output], wanted)
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
