"""The class that applications use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.added_search import beside
from llmcdsr_lite.backend import Backend, BackendName, NumpyBackend, OnnxBackend
from llmcdsr_lite.bundle import ONNX, Bundle, read_bundle
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.encoder import TextEncoder
from llmcdsr_lite.errors import UnknownItemError, UsageError
from llmcdsr_lite.explanation import Explainer
from llmcdsr_lite.hnsw import HnswSearch
from llmcdsr_lite.lifetime import CLOSED, Source, give_memory_back
from llmcdsr_lite.new_items import NewItem, add_to_bundle
from llmcdsr_lite.pseudo import Asked, PseudoItems, PseudoRecall
from llmcdsr_lite.ranking import Filters, Ranking
from llmcdsr_lite.recall import NameVectors
from llmcdsr_lite.results import BatchRecommendations, Explanation, Recommendation, Recommendations
from llmcdsr_lite.saving import card_with_added, onnx_model, read_card, save_bundle
from llmcdsr_lite.search import ExactSearch, Rows, Scores, Search, SearchName, make_search

UnknownPolicy = Literal["skip", "error"]
_UNKNOWN_POLICIES = get_args(UnknownPolicy)  # to ask for them costs more than the check
_NO_ROWS = np.zeros(0, dtype=np.int64)
MAX_THREADS = 256  # thousands keep onnxruntime busy starting them


class Recommender:
    """Recommends the next items for a history of items of two domains.

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
        encoder: TextEncoder | None = None,
        card: str | None = None,
    ) -> None:
        self._made_with = (search, threads)
        self._source: Source | None = None  # where it was loaded from
        self._encoder = encoder
        self._card = card  # that of its folder, if there is none
        self._bundle = bundle
        self._catalogue = bundle.catalogue
        self._backend = backend
        scan = backend.name == "onnx"
        graph = None if bundle.index is None else bundle.index.items
        self._search: Search = (
            make_search(
                search, bundle.item_vectors, bundle.catalogue.domains, threads, scan=scan, graph=graph
            )
            if isinstance(search, str)
            else search
        )
        self._ranking = Ranking(bundle, backend, self._search)
        self._recaller = _recaller(bundle, encoder, threads, graph=self._search.name == "hnsw")
        self._ids = np.array([None, *bundle.catalogue.ids], dtype=object)
        self._similar_search: ExactSearch | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backend: BackendName = "onnx",
        threads: int = 1,
        search: SearchName = "auto",
        encoder: str | Path | TextEncoder | None = None,
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
            ``auto`` is exact below 100,000 items, or where hnswlib is not installed. Approximate search uses
            the graph in the bundle (``llmcdsr index``), or else builds one now, which may take minutes.
        encoder : str, Path or TextEncoder, optional
            Encoder (folder) that the bundle was made with. Only free-text names in `recommend` and new
            items without an embedding need it: the titles of the catalogue are in the bundle as vectors.

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
        _choice("backend", backend, get_args(BackendName))
        _choice("search", search, get_args(SearchName))
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads must be from 1 to {MAX_THREADS}, found {threads}")
        path = Path(folder)
        bundle = read_bundle(path)
        parameters = bundle.parameters
        source = None
        if not isinstance(encoder, TextEncoder):
            encoder = None if encoder is None else Path(encoder).absolute()
            source = Source(path.absolute(), backend, threads, search, encoder, bundle.hashes)
            encoder = None if encoder is None else TextEncoder.load(encoder, threads)
        runs: Backend = NumpyBackend(parameters)
        if backend == "onnx":
            runs = OnnxBackend(path / ONNX, bundle.item_vectors, parameters.config.max_length, threads)
        recommender = cls(bundle, runs, search, threads, encoder)
        recommender._source = source
        return recommender

    def close(self) -> None:
        """Let go of the session, the arrays and the mapped files: every later use is a `UsageError`.

        The memory is free, and the files may be changed in place, as soon as no thread is inside a call
        and nobody else holds `bundle` or `items`. To replace a bundle, closing is not needed: write the new
        one beside the old one and rename it.
        """
        self._bundle = self._catalogue = self._backend = self._search = self._ranking = CLOSED
        self._recaller = self._ids = self._similar_search = self._encoder = self._card = CLOSED
        give_memory_back()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Source], Recommender], tuple[Source]]:
        if self._bundle.folder is None or self._source is None:
            raise UsageError(
                "only a recommender that was loaded from a folder, its encoder too, can be sent to another "
                "process: save it, and load it from there"
            )
        return Source.load, (self._source,)

    @property
    def items(self) -> Catalogue:
        """The catalogue: ids, titles and domains of all items."""
        return self._catalogue

    @property
    def domains(self) -> tuple[str, str]:
        """Names of domain A and domain B."""
        a, b = self._catalogue.domains
        return a.name, b.name

    @property
    def bundle(self) -> Bundle:
        """What was loaded."""
        return self._bundle

    @property
    def backend_name(self) -> str:
        """What runs the model: onnx or numpy."""
        return self._backend.name

    @property
    def search_name(self) -> str:
        """The search in use: exact or hnsw."""
        return self._search.name

    def recommend(
        self,
        history: Sequence[str],
        *,
        domain: str | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        unknown: UnknownPolicy = "skip",
        pseudo: Asked = "auto",
        explain: bool = False,
    ) -> Recommendations:
        """Rank the items that come next for one user.

        Parameters
        ----------
        history : sequence of str
            Item ids, oldest first; a longer one than the model takes is cut to the newest items.
        domain : str, optional
            Recommend items of this domain alone.
        k : int
            How many items; fewer come back where the filters leave fewer.
        exclude_seen : bool
            Leave out the items of the history (all of it, before any cut).
        allow : iterable of str, optional
            Recommend nothing but these.
        exclude : iterable of str, optional
            Recommend none of these.
        unknown : {"skip", "error"}
            What to do about ids that are not in the catalogue, in `history`, `allow` or `exclude`.
        pseudo : {"auto", "off"} or sequence of str
            ``auto``: a history without an item of `domain` (among those that the model looks back on)
            gets pseudo items by what its items say (`PseudoChoice.source`), as the bundle's setting for
            that domain has it; "off" is such a setting, too. Without `domain`, a history of one domain
            gets them for the other one, where the setting adds to the scores of that domain's items alone
            (``fuse``). Names (item ids, titles or, with an encoder, free text) recall pseudo items of
            `domain` for any history, an empty one included; a list without names is "off". Pseudo items
            do not count as seen: they may be recommended.
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
        DataError
            If there is no such domain.
        UsageError
            If `k` is below 1, the history is one string, or names are given without a domain, to a bundle
            without a recall network, or as free text without an encoder.
        """
        known, missing = self._rows_of("history", history, unknown)
        _positive(k)
        k = min(k, len(self._catalogue))
        filters = self._filters(domain, exclude_seen, allow, exclude, unknown)
        asked = _asked("pseudo", pseudo)
        items = self._recall([known], domain, [asked], explain)
        rows, scores, fallback = self._ranking.rank([known], items, k, filters)
        explanation = None
        if explain:
            (explanation,) = self._explain([known], domain, [asked], items, rows, fallback)
        found = self._items(rows[0], scores[0])
        return Recommendations(found, tuple(missing), bool(fallback[0]), explanation)

    def recommend_batch(
        self,
        histories: Sequence[Sequence[str]],
        *,
        domain: str | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
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
            Arrays (n, k), aligned with `histories`.
        """
        found = [self._rows_of(f"history {n}", history, unknown) for n, history in enumerate(histories)]
        known = [rows for rows, _ in found]
        _positive(k)
        filters = self._filters(domain, exclude_seen, allow, exclude, unknown)
        if isinstance(pseudo, str):
            asked = [_asked("pseudo", pseudo)] * len(known)
        else:
            asked = [_asked(f"pseudo of history {n}", one) for n, one in enumerate(pseudo)]
        if len(asked) != len(known):
            raise UsageError(f"pseudo is for {len(asked)} histories, found {len(known)}")
        items = self._recall(known, domain, asked, explain)
        rows, scores, fallback = self._ranking.rank(known, items, k, filters)
        n_unknown = np.array([len(missing) for _, missing in found], dtype=np.int64)
        explanations = self._explain(known, domain, asked, items, rows, fallback) if explain else None
        return BatchRecommendations(self._ids[rows], scores, rows, n_unknown, fallback, explanations)

    def similar(self, item: str, k: int = 10, *, domain: str | None = None) -> Recommendations:
        """Items whose vectors point the same way, by cosine.

        Parameters
        ----------
        item : str
            Item id.
        k : int
            How many.
        domain : str, optional
            Items of this domain alone; either domain by default.

        Returns
        -------
        Recommendations
            Scores are cosines.

        Raises
        ------
        UnknownItemError
            If the id is not in the catalogue.
        """
        _positive(k)
        k = min(k, len(self._catalogue))
        row = self._catalogue.row(item)
        if self._similar_search is None:  # two threads may both do this: they do the same
            vectors = self._bundle.item_vectors
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._similar_search = ExactSearch(vectors / np.maximum(norms, 1e-12))
        search = self._similar_search
        start, stop = self._range(domain)
        itself = np.array([row])
        rows, scores = search.search(search.item_vectors[itself], k, start, stop, [itself], None)
        return Recommendations(self._items(rows[0], scores[0]))

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
            of the second domain are other ones; ids stay.

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
        bundle = add_to_bundle(self._bundle, items, self._encoder)
        card = card_with_added(self._card or read_card(self._bundle), bundle)
        search, threads = self._made_with
        if self.search_name == "hnsw":  # to build its graph again would take minutes
            search = beside(
                self._search, self._catalogue.domains, bundle.catalogue.domains, bundle.item_vectors
            )
        backend: Backend = NumpyBackend(bundle.parameters)
        if self.backend_name == "onnx":
            max_length = bundle.parameters.config.max_length
            model = onnx_model(bundle)
            backend = OnnxBackend(Path(ONNX), bundle.item_vectors, max_length, threads, model)
        return Recommender(bundle, backend, search, threads, self._encoder, card)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the bundle, with the items that were added, to a folder that `load` reads.

        It appears whole or not at all. The model card says what was added.

        Parameters
        ----------
        folder : str or Path
        overwrite : bool
            Replace a folder that is there.

        Raises
        ------
        DataError
            If the folder is there and must not be overwritten.
        BundleError
            If the model card that this bundle was loaded with has changed since.
        """
        save_bundle(self._bundle, self._card or read_card(self._bundle), Path(folder), overwrite=overwrite)

    def _recall(
        self, known: list[Rows], domain: str | None, asked: list[Asked], explain: bool
    ) -> list[PseudoItems | None]:
        """Pseudo items of each history."""
        if self._recaller is None:
            if not all(isinstance(one, str) for one in asked):
                raise UsageError("pseudo: this bundle has no recall network, so names cannot be used")
            return [None] * len(known)
        return self._recaller.recall(known, self._domain(domain), asked, rows_always=explain)

    def _explain(
        self,
        known: list[Rows],
        domain: str | None,
        asked: list[Asked],
        pseudo: list[PseudoItems | None],
        rows: Rows,
        fallback: npt.NDArray[np.bool_],
    ) -> tuple[Explanation, ...]:
        max_length = self._bundle.parameters.config.max_length
        explainer = Explainer(self._catalogue, self._ranking, self._recaller, max_length)
        tops = np.where(fallback, 0, rows[:, 0])
        return tuple(
            explainer.explain(history, self._domain(domain), one, items, int(top))
            for history, one, items, top in zip(known, asked, pseudo, tops, strict=True)
        )

    def _filters(
        self,
        domain: str | None,
        exclude_seen: bool,
        allow: Iterable[str] | None,
        exclude: Iterable[str] | None,
        unknown: UnknownPolicy,
    ) -> Filters:
        start, stop = self._range(domain)
        allowed = None if allow is None else np.unique(self._rows_of("allow", allow, unknown)[0])
        excluded = _NO_ROWS if exclude is None else self._rows_of("exclude", exclude, unknown)[0]
        return Filters(start, stop, allowed, excluded, exclude_seen)

    def _rows_of(self, name: str, item_ids: Iterable[str], unknown: UnknownPolicy) -> tuple[Rows, list[str]]:
        """Rows of the known ids, and the unknown ids, of the argument `name`."""
        _choice("unknown", unknown, _UNKNOWN_POLICIES)
        if isinstance(item_ids, str | bytes):
            raise UsageError(f"{name} is one string, expected a sequence of item ids")
        rows, missing = self._catalogue.rows(item_ids)
        if missing and unknown == "error":
            raise UnknownItemError(f"{name}: item {missing[0]!r} is not in the catalogue")
        return rows, missing

    def _domain(self, name: str | None) -> Domain | None:
        return None if name is None else self._catalogue.domain(name)

    def _range(self, domain: str | None) -> tuple[int, int]:
        found = self._domain(domain)
        return (1, len(self._catalogue) + 1) if found is None else (found.start, found.stop)

    def _items(self, rows: Rows, scores: Scores) -> tuple[Recommendation, ...]:
        ids, titles = self._catalogue.ids, self._catalogue.titles
        names, second = self.domains, self._catalogue.domains[1].start
        return tuple(
            Recommendation(ids[row - 1], titles[row - 1], names[row >= second], score)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if row
        )


def _recaller(
    bundle: Bundle, encoder: TextEncoder | None, threads: int, *, graph: bool
) -> PseudoRecall | None:
    """What recalls pseudo items, where the bundle has a recall network: by its graph, if wanted and there."""
    if encoder is not None and bundle.new_items is not None:
        if encoder.dimension != bundle.new_items.dimension:
            raise UsageError(
                f"encoder: gives {encoder.dimension} values a text, this bundle expects "
                f"{bundle.new_items.dimension}: name the encoder that it was made with"
            )
        if bundle.recall is None or bundle.recall.projections is None:
            encoder = None  # it is for the titles of new items alone
    if bundle.recall is None:
        if encoder is not None:
            raise UsageError("encoder: this bundle has no recall network, so there is nothing to encode for")
        return None
    network = bundle.recall
    if graph and bundle.index is not None and bundle.index.recall is not None:
        vectors = np.asarray(network.items, dtype=np.float32)
        search = HnswSearch(vectors, bundle.catalogue.domains, threads, bundle.index.recall)
        network = replace(network, search=search)
    names = NameVectors(bundle.catalogue, network, encoder)
    max_length = bundle.parameters.config.max_length
    return PseudoRecall(bundle.catalogue, network, bundle.pseudo, max_length, names)


def _asked(name: str, pseudo: Any) -> Asked:
    """Check what is asked for one user."""
    if isinstance(pseudo, str):
        if pseudo not in ("auto", "off"):
            raise UsageError(f"{name} is {pseudo!r}, expected 'auto', 'off' or a list of names")
        return pseudo
    names = list(pseudo)
    if not all(isinstance(one, str) for one in names):
        raise UsageError(f"{name} holds something that is not a string, expected a list of names")
    return names


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _positive(k: int) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, found {k}")
