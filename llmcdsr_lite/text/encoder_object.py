"""Encoders of texts: a folder, or an object of model2vec, fastembed, sentence-transformers or one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.text.encoder import DEFAULT_BATCH_SIZE, TextEncoder

_PROBES = ["text", "stovetop espresso maker", "100 % whole-grain crackers, 8 oz"]


class EncoderObject:
    """An encoder of another library: its ``encode(texts)``, or fastembed's ``embed``, gives vectors (n, E).

    Parameters
    ----------
    model : object

    Raises
    ------
    UsageError
        If it has neither method, or does not give a vector for a text.
    """

    def __init__(self, model: Any) -> None:
        method = getattr(model, "encode", None) or getattr(model, "embed", None)
        if not callable(method):
            raise UsageError(
                f"encoder is {type(model).__name__}, expected a folder or an object with encode(texts)"
            )
        self._encode: Callable[[list[str]], Any] = method
        self._name = type(model).__name__
        try:
            shape = self._vectors(_PROBES[:1]).shape
        except DataError as error:
            raise UsageError(str(error)) from None
        if len(shape) != 2 or shape[0] != 1 or not shape[1]:
            raise UsageError(
                f"encoder: {self._name} gives an array of shape {shape} for one text, expected (1, E)"
            )
        self.dimension = int(shape[1])

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts, see `TextEncoder.encode`; the object has a batch size of its own.

        Raises
        ------
        UsageError
            If `texts` is one string.
        DataError
            If what the object gives is not a finite vector for each.
        """
        if isinstance(texts, str):
            raise UsageError("texts is one string, expected a sequence of them")
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        filled = [i for i, text in enumerate(texts) if text.strip()]
        if filled:
            found = self._vectors([texts[i] for i in filled])
            expected = (len(filled), self.dimension)
            if found.shape != expected:
                raise DataError(
                    f"encoder: {self._name} gives an array of shape {found.shape}, expected {expected}"
                )
            finite = np.isfinite(found).all(axis=1)
            if not finite.all():
                worst = filled[int(np.argmin(finite))]
                raise DataError(f"text {worst}: {self._name} gives it a vector that is not finite")
            vectors[filled] = found
        if progress is not None:
            progress(len(texts), len(texts))
        return vectors

    def fingerprint(self) -> str:
        """SHA-256 of the vectors of a few texts: what decides them is the library's own."""
        return hashlib.sha256(self.encode(_PROBES).tobytes()).hexdigest()

    def _vectors(self, texts: list[str]) -> npt.NDArray[np.float32]:
        given = self._encode(texts)
        try:
            return np.asarray(given if isinstance(given, np.ndarray) else list(given), dtype=np.float32)
        except (TypeError, ValueError):
            raise DataError(f"encoder: {self._name} gives {given!r:.60}, expected an array (n, E)") from None


Encoder: TypeAlias = TextEncoder | EncoderObject


def open_encoder(
    encoder: str | Path | Any,
    threads: int = 1,
    *,
    prompt: str | None = None,
    max_length: int | None = None,
) -> Encoder:
    """Open an encoder folder, or take an object that encodes.

    Parameters
    ----------
    encoder : str, Path, TextEncoder or object
        A folder, or what has ``encode(texts)``.
    threads : int
        Of a folder's encoder.
    prompt, max_length
        As in `TextEncoder.load`; of an object they are its own affair.

    Raises
    ------
    UsageError
        If the object is no encoder, or a setting cannot be meant.
    MissingDependencyError, BundleError
        As `TextEncoder.load`.
    """
    if isinstance(encoder, str | Path):
        return TextEncoder.load(Path(encoder), threads, prompt=prompt, max_length=max_length)
    if prompt is not None or max_length is not None:
        raise UsageError("prompt and max_length are of an encoder folder; set them in the object")
    return encoder if isinstance(encoder, TextEncoder) else EncoderObject(encoder)
