"""User representations from item rows: an ONNX session, or NumPy and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import BundleError, MissingDependencyError
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_lite.model.packing import pack_lists
from llmcdsr_lite.model.sasrec import user_representations
from llmcdsr_lite.model.session import OnnxSession

BackendName = Literal["onnx", "numpy"]
Representations = npt.NDArray[np.floating[Any]]

# The names in the ONNX graph that the exporter writes and `OnnxBackend` reads.
INPUT_NAME = "item_rows"
OUTPUT_NAME = "user_representation"
ITEM_TABLE_NAME = "item_embedding"
_RUN = 64  # users in a run of the session: what it computes stays in the cache
_LONGEST_CHECK = 1024  # attention is quadratic in the length: the check at load must stay small


class Backend(Protocol):
    """Turns histories into user representations."""

    name: BackendName

    def represent(self, histories: Sequence[npt.NDArray[np.integer[Any]]]) -> Representations:
        """User representations.

        Parameters
        ----------
        histories : sequence of n int arrays
            Item rows, oldest first, none empty; each is cut to its newest `max_length` items.

        Returns
        -------
        float array (n, H)
        """


class NumpyBackend:
    """The reference model as it stands.

    Parameters
    ----------
    parameters : SASRecParameters or SASRecEnsemble
    """

    name: BackendName = "numpy"

    def __init__(self, parameters: Model) -> None:
        self._parameters = parameters

    def represent(self, histories: Sequence[npt.NDArray[np.integer[Any]]]) -> Representations:
        """User representations (n, H), see `Backend.represent`."""
        batch = pack_lists(histories, self._parameters.config.max_length)
        parts = [user_representations(member, batch) for member in self._parameters.members]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class OnnxBackend:
    """An ONNX session on the CPU.

    Parameters
    ----------
    path : Path
        The model, its item table left out.
    item_embedding : float32 array (items + 1, H)
        The item table, handed to the session without a copy; it must outlive the session.
    max_length : int
    threads : int
        Threads inside one operator.
    model : bytes, optional
        The model, where it is not in a file; `path` names it in messages then.

    Raises
    ------
    MissingDependencyError
        If onnxruntime is not installed.
    BundleError
        If the session refuses the model, or it is not one that fits the item table.
    """

    name: BackendName = "onnx"

    def __init__(
        self,
        path: Path,
        item_embedding: npt.NDArray[np.float32],
        max_length: int,
        threads: int,
        model: bytes | None = None,
    ) -> None:
        try:
            content = path.read_bytes() if model is None else model  # a child of a fork needs it again
            self._session = OnnxSession(content, threads, {ITEM_TABLE_NAME: item_embedding})
        except ImportError as error:
            raise MissingDependencyError(
                f"backend 'onnx' needs onnxruntime ({error}): pip install onnxruntime, or use backend='numpy'"
            ) from None
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise BundleError(f"{path}: onnxruntime does not load it: {error}") from None
        self._max_length = max_length
        self._check(path, item_embedding.shape[1])

    def _check(self, path: Path, hidden: int) -> None:
        """Run the longest histories once: a model that does not fit is refused now, not at a request."""
        try:
            found = self.represent([np.ones(min(self._max_length, _LONGEST_CHECK), dtype=np.int64)] * 2)
        except Exception as error:  # as above: names, types, shapes, sizes inside the graph
            raise BundleError(f"{path}: is not the recommender of this bundle: {error}") from None
        if found.shape != (2, hidden) or found.dtype != np.float32:
            raise BundleError(
                f"{path}: gives a {found.dtype} array of shape {found.shape} for two users, "
                f"expected float32 (2, {hidden})"
            )
        if not np.isfinite(found).all():
            raise BundleError(f"{path}: gives values that are not finite")

    def represent(self, histories: Sequence[npt.NDArray[np.integer[Any]]]) -> Representations:
        """User representations (n, H), see `Backend.represent`."""
        newest = [h[-self._max_length :] for h in histories]
        if len(newest) <= _RUN:
            return self._run(newest)
        lengths = np.array([len(history) for history in newest])
        order = lengths.argsort(kind="stable")  # little padding where those of a run are of a length
        parts = [order[first : first + _RUN] for first in range(0, len(order), _RUN)]
        users = np.concatenate([self._run([newest[i] for i in part.tolist()]) for part in parts])
        representations: Representations = np.empty_like(users)
        representations[order] = users
        return representations

    def _run(self, newest: Sequence[npt.NDArray[np.integer[Any]]]) -> Representations:
        if len(newest) == 1:
            padded = newest[0].astype(np.int64, copy=False)[None]
        else:
            padded = np.zeros((len(newest), max(map(len, newest))), dtype=np.int64)
            for i, history in enumerate(newest):
                padded[i, padded.shape[1] - len(history) :] = history
        representations: Representations = self._session.run([OUTPUT_NAME], {INPUT_NAME: padded})[0]
        return representations


def make_backend(
    name: BackendName, parameters: Model, path: Path, threads: int, model: bytes | None = None
) -> Backend:
    """Make the backend of that name; `path`, `threads` and `model` are for `OnnxBackend`."""
    if name == "numpy":
        return NumpyBackend(parameters)
    return OnnxBackend(path, parameters.item_embedding, parameters.config.max_length, threads, model)
