"""A recommender's end, and its life in another process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from llmcdsr_lite.backend import BackendName
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.search.choice import SearchName

if TYPE_CHECKING:
    from llmcdsr_lite.recommender import Recommender

Part = TypeVar("Part")


@dataclass(frozen=True)
class Source:
    """What a recommender was loaded from, and how: all that is sent to another process.

    Parameters
    ----------
    folder : Path
    backend : {"onnx", "numpy"}
    threads : int
    search : {"auto", "exact", "hnsw"}
    encoder : Path or None
    hashes : mapping of str to str
        SHA-256 of every file of the bundle.
    mmap : bool
    """

    folder: Path
    backend: BackendName
    threads: int
    search: SearchName
    encoder: Path | None
    hashes: Mapping[str, str]
    mmap: bool

    def load(self) -> Recommender:
        """Load the same bundle again.

        Raises
        ------
        BundleError
            If there is another one in its place by now.
        """
        from llmcdsr_lite.recommender import Recommender

        recommender = Recommender.load(
            self.folder,
            backend=self.backend,
            threads=self.threads,
            search=self.search,
            encoder=self.encoder,
            mmap=self.mmap,
        )
        if dict(recommender.bundle.hashes) != dict(self.hashes):
            raise BundleError(f"{self.folder}: is no longer the bundle that was pickled; load it anew")
        return recommender


class Closed:
    """Stands for every part of a recommender that was closed."""

    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError("this recommender was closed")

    def __len__(self) -> NoReturn:
        raise UsageError("this recommender was closed")


CLOSED: Any = Closed()


def still_open(part: Part) -> Part:
    """A part of a recommender, to be handed out.

    Raises
    ------
    UsageError
        If it was closed.
    """
    if part is CLOSED:
        raise UsageError("this recommender was closed")
    return part


def give_memory_back() -> None:
    """Hand what was freed to the operating system.

    The GNU C library keeps up to some 64 MB of it for the process, in the hope of further use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # other C libraries have no such function
        trim(0)
