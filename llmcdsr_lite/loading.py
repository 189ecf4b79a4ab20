"""From a bundle folder to the parts of a recommender, here or in the process that it is sent to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llmcdsr_lite.arguments import check_choice, checked_threads
from llmcdsr_lite.backend import Backend, BackendName, make_backend
from llmcdsr_lite.bundle.files import undisturbed
from llmcdsr_lite.bundle.folder import ONNX, Bundle, in_memory, read_bundle
from llmcdsr_lite.encoder_object import Encoder, open_encoder
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.lifetime import Source
from llmcdsr_lite.search.choice import SearchName, make_search
from llmcdsr_lite.search.protocol import Search

if TYPE_CHECKING:
    from llmcdsr_lite.recommender import Recommender


@dataclass(frozen=True)
class Parts:
    """What was loaded.

    Parameters
    ----------
    bundle : Bundle
    backend : Backend
    encoder : Encoder or None
    source : Source or None
        To load the same again; None where the encoder is not from a folder that is known.
    """

    bundle: Bundle
    backend: Backend
    encoder: Encoder | None
    source: Source | None


def load_parts(
    folder: str | Path,
    backend: BackendName,
    threads: int,
    search: SearchName,
    encoder: str | Path | Any | None,
    *,
    mmap: bool,
) -> Parts:
    """Load what a recommender is made of, see `Recommender.load`."""
    check_choice("backend", backend, get_args(BackendName))
    check_choice("search", search, get_args(SearchName))
    threads = checked_threads(threads)
    path = Path(folder)

    def read() -> tuple[Bundle, Backend]:
        bundle = read_bundle(path) if mmap else in_memory(read_bundle(path))
        return bundle, make_backend(backend, bundle.parameters, path / ONNX, threads)

    bundle, runs = undisturbed(path, read)
    source = None
    if encoder is None or isinstance(encoder, str | Path):
        encoder = None if encoder is None else Path(encoder).absolute()
        source = Source(path.absolute(), backend, threads, search, encoder, bundle.hashes, mmap)
    return Parts(bundle, runs, None if encoder is None else open_encoder(encoder, threads), source)


def search_of(bundle: Bundle, search: SearchName | Search, threads: int, *, scan: bool) -> Search:
    """The search of that name over a bundle's items, see `make_search`; one that is made stays as it is."""
    if not isinstance(search, str):
        return search
    graph = None if bundle.index is None else bundle.index.items
    domains = bundle.catalogue.domains
    return make_search(search, bundle.item_vectors, domains, threads, scan=scan, graph=graph)


def reduced(bundle: Bundle, source: Source | None) -> tuple[Callable[[Source], Recommender], tuple[Source]]:
    """What `pickle` is told of a recommender: to load the same again.

    Raises
    ------
    UsageError
        If it was not loaded from a folder, its encoder too.
    """
    if bundle.folder is None or source is None:
        raise UsageError(
            "only a recommender that was loaded from a folder, its encoder too, can be sent to another "
            "process: save it, and load it from there"
        )
    return Source.load, (source,)
