"""The class that applications use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.files import undisturbed
from llmcdsr_lite.bundle.folder import ONNX, Bundle, in_memory, read_bundle
from llmcdsr_lite.bundle.saving import card_with_added, read_card, save_bundle, unsaved_backend
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.explanation import explain as explained
from llmcdsr_lite.frames import recommend_frame
from llmcdsr_lite.mix.mixture import seen_rows
from llmcdsr_lite.model.backends import Backend, BackendName, make_backend
from llmcdsr_lite.new_items import NewItem, add_to_bundle
from llmcdsr_lite.ranking import Ranking
from llmcdsr_lite.request import (
    Asked,
    ItemFilter,
    Request,
    UnknownPolicy,
    asked_of_each,
    asked_pseudo,
    check_choice,
    checked_request,
    checked_threads,
    history_rows,
    item_filter,
    item_ids,
    known_rows,
    known_rows_of_each,
    listed,
)
from llmcdsr_lite.results import BatchRecommendations, Explanation, Recommendations, described
from llmcdsr_lite.search.added import beside
from llmcdsr_lite.search.choice import SearchName, make_search
from llmcdsr_lite.search.protocol import Rows, Scores, Search
from llmcdsr_lite.text.encoder_object import Encoder, open_encoder

Frame = TypeVar("Frame")  # of pandas, Polars, pyarrow or DuckDB
Answer = tuple[Rows, Scores, npt.NDArray[np.bool_], tuple[Explanation, ...] | None]


class Recommender:
    """Recommends the next items for a history of items of one or more domains.

    Make one with `Recommender.load`; its methods change nothing and may be called from several threads, and
    in the child of a fork. Pickled, it is the path of its bundle: whoever unpickles it loads that again. A
    ``with`` block closes it.

    Examples
    --------
    >>> recommender = Recommender.load("models/demo")
    >>> history = ["g-coffee-dark-roast-whole-bean"]
    >>> for item in recommender.recommend(history, domain="kitchenware", k=3):
    ...     print(item.title, item.score)  # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        search: SearchName | Search = "auto",
        threads: int = 1,
        encoder: Encoder | None = None,
        card: str | None = None,
    ) -> None:
        self._threads = threads
        self._search_name: SearchName = search if isinstance(search, str) else "auto"
        self._load_again: Callable[[], Recommender] | None = None  # where it was loaded from folders alone
        self._card = card  # that of its folder, if there is none
        self._seen_by_default = seen_rows(bundle.mix, bundle.catalogue)
        _ = bundle.catalogue.id_of_row  # built now: no request waits for it
        if isinstance(search, str):
            graph = None if bundle.index is None else bundle.index.items
            domains, scan = bundle.catalogue.domains, backend.name == "onnx"
            search = make_search(search, bundle.item_vectors, domains, threads, scan=scan, graph=graph)
        self._open: Ranking | None = Ranking(bundle, backend, search, encoder, threads)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backend: BackendName = "onnx",
        threads: int = 1,
        search: SearchName = "auto",
        encoder: str | Path | Any | None = None,
        mmap: bool = True,
    ) -> Recommender:
        """Load a bundle, after checking every file in it.

        Parameters
        ----------
        folder : str or Path
            Bundle folder.
        backend : {"onnx", "numpy"}
            ``numpy`` needs nothing but NumPy; both give the same answers.
        threads : int
            Threads of the ONNX session and of hnswlib. NumPy's own are set by its environment variables
            (``OPENBLAS_NUM_THREADS``).
        search : {"auto", "exact", "hnsw"}
            ``auto`` is exact below 300,000 items, or where hnswlib is not installed. Approximate search uses
            the graph in the bundle (``llmcdsr index``), or else builds one now, which may take minutes.
        encoder : str, Path, TextEncoder or object, optional
            Encoder that the bundle was made with: its folder, or an object of model2vec, fastembed,
            sentence-transformers or your own with ``encode(texts) -> (n, E)``. Only free-text names in
            `recommend` and new items without an embedding need it: the titles of the catalogue are in the
            bundle as vectors. A recommender with an object cannot be pickled.
        mmap : bool
            Map the files instead of reading them into memory: processes share them, and loading is faster.
            A mapped file that is truncated in place ends the process that reads it; where a bundle is not
            replaced by renaming its folder, load it without.

        Returns
        -------
        Recommender

        Raises
        ------
        BundleError
            If the bundle, or the encoder folder, is incomplete, damaged or unsafe.
        MissingDependencyError
            If the backend, the search or the encoder needs a package that is not installed.
        UsageError
            If an argument is not one of those named above, or the encoder is not of this bundle.
        """
        check_choice("backend", backend, get_args(BackendName))
        check_choice("search", search, get_args(SearchName))
        threads = checked_threads(threads)
        path = Path(folder)

        def read() -> tuple[Bundle, Backend]:
            bundle = read_bundle(path) if mmap else in_memory(read_bundle(path))
            return bundle, make_backend(backend, bundle.parameters, path / ONNX, threads)

        bundle, runs = undisturbed(path, read)
        opened = None if encoder is None else open_encoder(encoder, threads)
        recommender = cls(bundle, runs, search, threads, opened)
        if encoder is None or isinstance(encoder, str | Path):
            recommender._load_again = partial(
                cls.load,
                path.absolute(),
                backend=backend,
                threads=threads,
                search=search,
                encoder=None if encoder is None else Path(encoder).absolute(),
                mmap=mmap,
            )
        return recommender

    def close(self) -> None:
        """Let go of the session, the arrays and the mapped files: every later use is a `UsageError`.

        The memory is free, and the files may be changed in place, as soon as no thread is inside a call
        and nobody else holds `bundle` or `items`. To replace a bundle, closing is not needed: write the new
        one beside the old one and rename it.
        """
        self._open = None
        # The GNU C library keeps up to some 64 MB of what was freed, in the hope of further use.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:  # other C libraries have no such function
            trim(0)

    @property
    def _ranking(self) -> Ranking:
        """All that requests need; taken once a call, as another thread may close this one meanwhile."""
        if self._open is None:
            raise UsageError("this recommender was closed")
        return self._open

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._open is None:
            return "<Recommender, closed>"
        domains = ", ".join(f"{d.name!r} ({d.n_items:,} items)" for d in self.items.domains)
        return f"<Recommender of {domains}: {self.backend_name} backend, {self.search_name} search>"

    def __reduce__(self) -> tuple[Callable[..., Recommender], tuple[Any, ...]]:
        if self.bundle.folder is None or self._load_again is None:
            raise UsageError(
                "only a recommender that was loaded from a folder, its encoder too, can be sent to another "
                "process: save it, and load it from there"
            )
        return _loaded_again, (self._load_again, dict(self.bundle.hashes))

    @property
    def items(self) -> Catalogue:
        """The catalogue: ids, titles and domains of all items; as a collection, the ids in order."""
        return self._ranking.bundle.catalogue

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return tuple(domain.name for domain in self.items.domains)

    @property
    def bundle(self) -> Bundle:
        """The bundle that was loaded."""
        return self._ranking.bundle

    @property
    def backend_name(self) -> str:
        """Name of what runs the model: onnx or numpy."""
        return self._ranking.backend.name

    @property
    def search_name(self) -> str:
        """Name of the search in use: exact or hnsw."""
        return self._ranking.search.name

    def recommend(
        self,
        history: Sequence[str],
        *,
        domain: str | Iterable[str] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        allow: Iterable[str] | ItemFilter | None = None,
        exclude: Iterable[str] | None = None,
        unknown: UnknownPolicy = "skip",
        pseudo: Asked = "auto",
        explain: bool = False,
    ) -> Recommendations:
        """Rank the items that come next for one user.

        Parameters
        ----------
        history : sequence of str
            Item ids, oldest first; a longer one than the model takes is cut to the newest items. Here and in
            every argument that takes ids, a whole number stands for the id that is written so.
        domain : str or iterable of str, optional
            Recommend items of this domain, or of these, alone; of all by default.
        k : int
            How many items; fewer come back where the filters leave fewer.
        exclude_seen : bool, optional
            Leave out the items of the history (all of it, before any cut). None does what validation chose
            for this bundle and domain (`DomainMix.exclude_seen`).
        allow : iterable of str or ItemFilter, optional
            Recommend nothing but these. Where many requests have the same, look them up once with `filter`.
        exclude : iterable of str, optional
            Recommend none of these.
        unknown : {"skip", "error"}
            What to do about ids that are not in the catalogue, in `history`, `allow` or `exclude`. The
            answer lists those that were skipped.
        pseudo : {"auto", "off"} or sequence of str
            ``auto``: for a history without an item of `domain`, pseudo items are recalled by what its items
            say (`DomainMix.source`), if the bundle's mix weighs them. Where several domains are asked for,
            each that the history lacks gets them: their similarity is added to the scores of its items,
            nothing is inserted. Names (item ids, titles or, with an encoder, free text) recall pseudo items
            of the one `domain` for any history, an empty one included; a list without names is "off".
            Pseudo items do not count as seen: they may be recommended.
        explain : bool
            Explain the first recommendation, at the price of scoring it once more for every item of the
            history.

        Returns
        -------
        Recommendations

        Raises
        ------
        UnknownItemError
            If an id is unknown and `unknown` is "error".
        UsageError
            If there is no such domain, `k` is not a whole number from 1, ids are not a sequence of strings,
            or names are given without one domain, to a bundle without a recall network, or as free text
            without an encoder.
        """
        ranking = self._ranking
        catalogue = ranking.bundle.catalogue
        known, missing = history_rows(catalogue, "history", history, unknown)
        request = checked_request(
            catalogue,
            k,
            domain,
            allow,
            exclude,
            unknown,
            exclude_seen=exclude_seen,
            seen_by_default=self._seen_by_default,
        )
        asked = asked_pseudo("pseudo", pseudo)
        rows, scores, fallback, why = _answer(ranking, request, [known], [asked], explain=explain)
        found = described(catalogue, rows[0], scores[0])
        explanation = why[0] if why else None
        return Recommendations(found, tuple(missing), bool(fallback[0]), explanation, request.unknown)

    def recommend_batch(
        self,
        histories: Sequence[Sequence[str]],
        *,
        domain: str | Iterable[str] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        allow: Iterable[str] | ItemFilter | None = None,
        exclude: Iterable[str] | None = None,
        unknown: UnknownPolicy = "skip",
        pseudo: Literal["auto", "off"] | Sequence[Asked] = "auto",
        explain: bool = False,
    ) -> BatchRecommendations:
        """Rank the items that come next for many users at once.

        Parameters
        ----------
        histories : sequence of n sequences of str
            A history for each user.
        domain, k, exclude_seen, allow, exclude, unknown, explain
            As in `recommend`, the same for all users.
        pseudo : {"auto", "off"}, or sequence of n "auto", "off" or names
            As in `recommend`, for all users or for each.

        Returns
        -------
        BatchRecommendations
            Arrays (n, k), aligned with `histories`; as wide as the catalogue has items, if `k` is more.
        """
        ranking = self._ranking
        catalogue = ranking.bundle.catalogue
        known, missing = known_rows_of_each(catalogue, histories, unknown)
        request = checked_request(
            catalogue,
            k,
            domain,
            allow,
            exclude,
            unknown,
            exclude_seen=exclude_seen,
            seen_by_default=self._seen_by_default,
        )
        asked = asked_of_each(pseudo, len(known))
        rows, scores, fallback, why = _answer(ranking, request, known, asked, explain=explain)
        ids = catalogue.id_of_row[rows]
        return BatchRecommendations(ids, scores, rows, missing, fallback, why, request.unknown)

    def recommend_frame(
        self,
        frame: Frame,
        *,
        domain: str | Iterable[str] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        allow: Iterable[str] | ItemFilter | None = None,
        exclude: Iterable[str] | None = None,
        unknown: UnknownPolicy = "skip",
        pseudo: Literal["auto", "off"] = "auto",
    ) -> Frame:
        """Rank the items that come next for every row of a data frame.

        Parameters
        ----------
        frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or duckdb.DuckDBPyRelation
            Columns ``history`` (lists of item ids, oldest first), and, if it has them, ``user`` (of any type)
            and ``domain`` (a name, or null for that of the argument). Others are passed over. A relation
            needs pyarrow.
        domain, k, exclude_seen, allow, exclude, unknown, pseudo
            As in `recommend`. Unknown ids of `allow` and `exclude` are told by `filter` alone.

        Returns
        -------
        frame of the same library
            A row for every recommended item, in the order of `frame`, best first: ``user`` as it was, or
            else ``row`` (of `frame`, from 0); ``rank`` (from 1); ``item``, ``score``, ``title`` and
            ``domain`` of the item; ``unknown``, how many ids of the history are not in the catalogue, and
            ``fallback``, as in `BatchRecommendations`. No row where the filters leave nothing.

        Raises
        ------
        UsageError
            If `frame` is of another type, has no column ``history``, or a row cannot be used.
        UnknownItemError
            If an id is unknown and `unknown` is "error".
        MissingDependencyError
            If a relation needs pyarrow, which is not installed.
        """
        catalogue = self.items
        wanted = domain if domain is None or isinstance(domain, str) else listed("domain", domain, "names")
        if allow is not None or exclude is not None:  # an iterator is read once, for all batches
            allow = item_filter(catalogue, allow, exclude, unknown)

        def score(histories: Sequence[Sequence[str]], named: str | None) -> BatchRecommendations:
            return self.recommend_batch(
                histories,
                domain=wanted if named is None else named,
                k=k,
                exclude_seen=exclude_seen,
                allow=allow,
                pseudo=pseudo,
            )

        answer: Frame = recommend_frame(frame, catalogue, unknown, score)
        return answer

    def filter(
        self,
        allow: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        *,
        unknown: UnknownPolicy = "skip",
    ) -> ItemFilter:
        """Items that may be recommended, looked up once for the `allow` of many requests.

        Parameters
        ----------
        allow : iterable of str, optional
            Nothing but these; all items by default.
        exclude : iterable of str, optional
            None of these.
        unknown : {"skip", "error"}
            What to do about ids that are not in the catalogue; `ItemFilter.unknown` and every answer list
            those that were skipped.

        Examples
        --------
        >>> recommender = Recommender.load("models/demo")
        >>> in_stock = recommender.filter(exclude=["k-coffee-burr-grinder-40-settings"])
        >>> answer = recommender.recommend(["g-coffee-dark-roast-whole-bean"], allow=in_stock)
        """
        return item_filter(self.items, allow, exclude, unknown)

    def represent(
        self, histories: Sequence[Sequence[str]], *, unknown: UnknownPolicy = "skip"
    ) -> npt.NDArray[np.float32]:
        """User representations, for a ranker or an index of your own.

        The sequence model scores an item with the dot product of these and `item_vectors`; `recommend` adds
        the bundle's mix to it.

        Parameters
        ----------
        histories : sequence of n sequences of str
            Item ids, oldest first.
        unknown : {"skip", "error"}
            What to do about ids that are not in the catalogue.

        Returns
        -------
        float32 array (n, H)
            Zero for a history without a known item.
        """
        ranking = self._ranking
        known, _ = known_rows_of_each(ranking.bundle.catalogue, histories, unknown)
        users: npt.NDArray[np.float32] = ranking.represent(known, [()] * len(known))
        return users

    def item_vectors(self, items: Iterable[str] | None = None) -> npt.NDArray[np.float32]:
        """Vectors of items; see `represent`.

        Parameters
        ----------
        items : iterable of str, optional
            Item ids; all items, in the order of `items`, by default.

        Returns
        -------
        float32 array (n, H)

        Raises
        ------
        UnknownItemError
            If an id is not in the catalogue.
        """
        bundle = self.bundle
        if items is None:
            return bundle.item_vectors[1:].copy()
        rows, _ = known_rows(bundle.catalogue, "items", items, "error")
        return bundle.item_vectors[rows]

    def similar(
        self,
        item: str | Iterable[str],
        k: int = 10,
        *,
        domain: str | Iterable[str] | None = None,
        allow: Iterable[str] | ItemFilter | None = None,
        exclude: Iterable[str] | None = None,
    ) -> Recommendations:
        """Items whose vectors point the same way, by cosine.

        Parameters
        ----------
        item : str or iterable of str
            Item id, or several: they are compared by the mean of their vectors of length 1.
        k : int
            How many.
        domain, allow, exclude
            As in `recommend`.

        Returns
        -------
        Recommendations
            Scores are cosines; the items themselves are left out.

        Raises
        ------
        UnknownItemError
            If an id of `item` is not in the catalogue.
        """
        ranking = self._ranking
        catalogue = ranking.bundle.catalogue
        items, _ = known_rows(catalogue, "item", item_ids("item", item), "error")
        request = checked_request(catalogue, k, domain, allow, exclude)
        rows, cosines = ranking.similar(items, request)
        return Recommendations(described(catalogue, rows, cosines), unknown_filter_items=request.unknown)

    def add_items(self, items: Iterable[NewItem | Mapping[str, Any]]) -> Recommender:
        """A recommender that has new items, too, by what their titles say; no training.

        This one stays as it is, so threads that use it get what they got before. The item vectors are
        copied, once a call: add many items at a time. Approximate search keeps its graph and goes through the
        added items one by one; what `save` writes has no graph: build one with ``llmcdsr index``.

        Parameters
        ----------
        items : iterable of NewItem, or of mappings with its fields
            New ids, the domain of each, and a title, or its embedding by the bundle's encoder.

        Returns
        -------
        Recommender
            New items can be recommended, be in histories, and be recalled as pseudo items. Rows of items
            of all domains but the first are other ones; ids stay.

        Raises
        ------
        UsageError
            If the bundle was exported without text embeddings, or a title needs an encoder.
        DataError
            If an item's id is taken, its domain is unknown, or its title or embedding cannot be used; the
            message says which item.

        Examples
        --------
        >>> recommender = Recommender.load("models/demo", encoder="minilm")  # doctest: +SKIP
        >>> item = {"id": "g-new", "domain": "groceries", "title": "Cold brew coffee"}
        >>> recommender = recommender.add_items([item])  # doctest: +SKIP
        >>> recommender.save("models/grown")  # doctest: +SKIP
        """
        ranking = self._ranking
        bundle = add_to_bundle(ranking.bundle, items, ranking.encoder)
        card = card_with_added(self._card or read_card(ranking.bundle), bundle)
        search: SearchName | Search = self._search_name
        if ranking.search.name == "hnsw":  # to build its graph again would take minutes
            before, after = ranking.bundle.catalogue.domains, bundle.catalogue.domains
            search = beside(ranking.search, before, after, bundle.item_vectors)
        backend = unsaved_backend(ranking.backend.name, bundle, self._threads)
        return Recommender(bundle, backend, search, self._threads, ranking.encoder, card)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the bundle, with the items that were added, to a folder that `load` reads.

        It appears whole or not at all. The model card says what was added.

        Parameters
        ----------
        folder : str or Path
        overwrite : bool
            Replace a bundle that is there; no other folder is, unless it is empty.

        Raises
        ------
        DataError
            If the folder is there and must not be overwritten.
        BundleError
            If the model card that this bundle was loaded with has changed since.
        """
        bundle = self.bundle
        save_bundle(bundle, self._card or read_card(bundle), Path(folder), overwrite=overwrite)


def _answer(
    ranking: Ranking, request: Request, histories: Sequence[Rows], asked: Sequence[Asked], *, explain: bool
) -> Answer:
    """Rows and scores (n, k), users who get the most popular items (n,), and explanations if wanted."""
    pseudo = ranking.recall(histories, request.domains, asked, rows_always=explain)
    rows, scores, fallback = ranking.rank(histories, pseudo, request)
    if not explain:
        return rows, scores, fallback, None
    tops = np.where(fallback, 0, rows[:, 0]).tolist()
    users = zip(histories, asked, pseudo, tops, strict=True)
    return rows, scores, fallback, tuple(explained(ranking, request, *user) for user in users)


def _loaded_again(load: Callable[[], Recommender], hashes: dict[str, str]) -> Recommender:
    """Load a recommender again in the process that it was sent to.

    Raises
    ------
    BundleError
        If there is another bundle in its place by now.
    """
    recommender = load()
    if dict(recommender.bundle.hashes) != hashes:
        folder = recommender.bundle.folder
        raise BundleError(f"{folder}: is no longer the bundle that was pickled; load it anew")
    return recommender
