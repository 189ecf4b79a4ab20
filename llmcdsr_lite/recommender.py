"""The class that applications use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import Backend, BackendName, NumpyBackend, OnnxBackend
from llmcdsr_lite.bundle import ONNX, Bundle, read_bundle
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import UnknownItemError, UsageError
from llmcdsr_lite.search import ExactSearch, Rows, Scores, SearchName, make_search

UnknownPolicy = Literal["skip", "error"]
MAX_THREADS = 256  # thousands keep onnxruntime busy starting them


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; a higher score is better."""

    id: str
    title: str
    domain: str
    score: float


@dataclass(frozen=True)
class Recommendations(Sequence[Recommendation]):
    """Ranked items for one user, best first.

    Parameters
    ----------
    items : tuple of Recommendation
    unknown_items : tuple of str
        Ids of the history that are not in the catalogue and were skipped.
    fallback : bool
        True if no item of the history was known: the items are the most popular ones, and their score
        is their share of the training interactions of the domains asked for.
    """

    items: tuple[Recommendation, ...]
    unknown_items: tuple[str, ...] = ()
    fallback: bool = False

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)


@dataclass(frozen=True)
class BatchRecommendations:
    """Ranked items for n users as aligned arrays, best first.

    Parameters
    ----------
    ids : object array (n, k)
        Item ids; None where a user has fewer than k items.
    scores : float32 array (n, k)
        ``-inf`` where there is no item.
    rows : int64 array (n, k)
        Item rows; 0 where there is no item.
    n_unknown : int64 array (n,)
        Ids of each history that are not in the catalogue and were skipped.
    fallback : bool array (n,)
        True where the history had no known item (see `Recommendations`).
    """

    ids: npt.NDArray[np.object_]
    scores: Scores
    rows: Rows
    n_unknown: npt.NDArray[np.int64]
    fallback: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


class Recommender:
    """Recommends the next items for a history of items of two domains.

    Make one with `Recommender.load`; its methods change nothing and may be called from several threads.

    Examples
    --------
    >>> recommender = Recommender.load("models/demo")
    >>> history = ["g-coffee-dark-roast-beans"]
    >>> for item in recommender.recommend(history, domain="kitchenware", k=3):
    ...     print(item.title, item.score)  # doctest: +SKIP
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, search: SearchName = "auto", threads: int = 1
    ) -> None:
        self._bundle = bundle
        self._catalogue = bundle.catalogue
        self._backend = backend
        self._search = make_search(search, bundle.item_vectors, bundle.catalogue.domains, threads)
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
            ``auto`` is exact below 100,000 items, or where hnswlib is not installed.

        Returns
        -------
        Recommender

        Raises
        ------
        BundleError
            If the bundle is incomplete, damaged or unsafe.
        MissingDependencyError
            If the backend or the search needs a package that is not installed.
        UsageError
            If an argument is not one of those named above.
        """
        _choice("backend", backend, get_args(BackendName))
        _choice("search", search, get_args(SearchName))
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads must be from 1 to {MAX_THREADS}, found {threads}")
        path = Path(folder)
        bundle = read_bundle(path)
        parameters = bundle.parameters
        if backend == "numpy":
            return cls(bundle, NumpyBackend(parameters), search, threads)
        onnx = OnnxBackend(path / ONNX, bundle.item_vectors, parameters.config.max_length, threads)
        return cls(bundle, onnx, search, threads)

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
            If `k` is below 1, or the history is one string.
        """
        known, missing = self._rows_of("history", history, unknown)
        _positive(k)
        k = min(k, len(self._catalogue))
        rows, scores, fallback = self._rank([known], domain, k, exclude_seen, allow, exclude, unknown)
        return Recommendations(self._items(rows[0], scores[0]), tuple(missing), bool(fallback[0]))

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
    ) -> BatchRecommendations:
        """Rank the items that come next for many users at once.

        Parameters
        ----------
        histories : sequence of n sequences of str
            A history for each user.
        domain, k, exclude_seen, allow, exclude, unknown
            As in `recommend`, the same for all users.

        Returns
        -------
        BatchRecommendations
            Arrays (n, k), aligned with `histories`.
        """
        found = [self._rows_of(f"history {n}", history, unknown) for n, history in enumerate(histories)]
        known = [rows for rows, _ in found]
        rows, scores, fallback = self._rank(known, domain, k, exclude_seen, allow, exclude, unknown)
        n_unknown = np.array([len(missing) for _, missing in found], dtype=np.int64)
        return BatchRecommendations(self._ids[rows], scores, rows, n_unknown, fallback)

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

    def _rank(
        self,
        known: list[Rows],
        domain: str | None,
        k: int,
        exclude_seen: bool,
        allow: Iterable[str] | None,
        exclude: Iterable[str] | None,
        unknown: UnknownPolicy,
    ) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        """Rows and scores (n, k) for histories of item rows, and which of them are a fallback."""
        _positive(k)
        start, stop = self._range(domain)
        allowed = None if allow is None else np.unique(self._rows_of("allow", allow, unknown)[0])
        excluded = self._rows_of("exclude", () if exclude is None else exclude, unknown)[0]
        blocked = [np.concatenate([rows, excluded]) if exclude_seen else excluded for rows in known]
        fallback = np.array([len(rows) == 0 for rows in known], dtype=bool)
        rows = np.zeros((len(known), k), dtype=np.int64)
        scores = np.full((len(known), k), -np.inf, dtype=np.float32)
        active = np.flatnonzero(~fallback)
        if len(active):
            users = self._backend.represent([known[i] for i in active])
            rows[active], scores[active] = self._search.search(
                users, k, start, stop, [blocked[i] for i in active], allowed
            )
        if len(active) < len(known):
            # all of them have an empty history: one answer serves them all
            rows[fallback], scores[fallback] = self._popular(k, start, stop, excluded, allowed)
        return rows, scores, fallback

    def _popular(
        self, k: int, start: int, stop: int, excluded: Rows, allowed: Rows | None
    ) -> tuple[Rows, Scores]:
        """Most popular items, scored by their share of the interactions of the rows asked for."""
        counts = self._bundle.item_counts.astype(np.float32)[:, None]
        share = counts / max(1.0, float(counts[start:stop].sum()))
        one = np.ones((1, 1), dtype=np.float32)
        return ExactSearch(share).search(one, k, start, stop, [excluded], allowed)

    def _rows_of(self, name: str, item_ids: Iterable[str], unknown: UnknownPolicy) -> tuple[Rows, list[str]]:
        """Rows of the known ids, and the unknown ids, of the argument `name`."""
        _choice("unknown", unknown, get_args(UnknownPolicy))
        if isinstance(item_ids, str | bytes):
            raise UsageError(f"{name} is one string, expected a sequence of item ids")
        rows, missing = self._catalogue.rows(item_ids)
        if missing and unknown == "error":
            raise UnknownItemError(f"{name}: item {missing[0]!r} is not in the catalogue")
        return rows, missing

    def _range(self, domain: str | None) -> tuple[int, int]:
        if domain is None:
            return 1, len(self._catalogue) + 1
        found: Domain = self._catalogue.domain(domain)
        return found.start, found.stop

    def _items(self, rows: Rows, scores: Scores) -> tuple[Recommendation, ...]:
        catalogue = self._catalogue
        return tuple(
            Recommendation(
                catalogue.ids[row - 1], catalogue.titles[row - 1], catalogue.domain_of_row(row).name, score
            )
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if row
        )


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _positive(k: int) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, found {k}")
