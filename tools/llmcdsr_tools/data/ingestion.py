"""Stage 1, `ingest`: interactions of one or more domains become a data set.

Two kinds of source are read: a folder in the layout of the authors' own data (see `official`), already
filtered and split, and interactions in any form that DuckDB reads (see `events`), which are filtered and
split here:

1. Repeated interactions of one moment are counted, and dropped if that is wanted.
2. k-core filter over the interactions of all domains together (`splits.k_core`). The catalogue keeps
   the items that remain; with core 0 it keeps every item, with core 1 every item that somebody touched.
3. Hold-out split: by time, whole overlapped users, or the last items of every history (`splits`).
4. Training histories of fewer than two items are dropped: there is no next item to learn from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.files import check_folder
from llmcdsr_tools.data.dataset import Dataset, Histories, Positions
from llmcdsr_tools.data.dataset_folder import DATASET, save_dataset
from llmcdsr_tools.data.dataset_summary import describe, summarize
from llmcdsr_tools.data.events import EventTable, read_events
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.items import ItemTable
from llmcdsr_tools.data.official import is_official, read_official
from llmcdsr_tools.data.sources import Query
from llmcdsr_tools.data.splits import (
    Splits,
    drop_short,
    hold_out_by_time,
    hold_out_overlapped,
    k_core,
    leave_one_out,
    near_duplicates,
    pack_histories,
)
from llmcdsr_tools.data.workspace import ReadingProgress


@dataclass(frozen=True)
class IngestResult:
    """The data set and what did not make it in.

    Parameters
    ----------
    dataset : Dataset
    untitled_items : int
        Items of the catalogue without a title.
    dropped_users, dropped_items, dropped_interactions : int
        What the k-core filter dropped; items of the items file that nobody touched are counted too.
    short_users : int
        Training users dropped for having fewer than two items.
    stray_titles : int
        Titles in the official layout whose item is in no item set.
    n_duplicates : int
        Interactions of one user with one item at one time, after the first.
    duplicates : {"keep", "drop"}
        What was done with them.
    skipped_records : int
        Records that could not be taken, where those are skipped.
    other_items, other_interactions : int
        Of domains that are not wanted.
    notes : tuple of str
        What was taken for what, in sentences.
    """

    dataset: Dataset
    untitled_items: int
    dropped_users: int = 0
    dropped_items: int = 0
    dropped_interactions: int = 0
    short_users: int = 0
    stray_titles: int = 0
    n_duplicates: int = 0
    duplicates: str = "keep"
    skipped_records: int = 0
    other_items: int = 0
    other_interactions: int = 0
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What the printed summary and the notes tell, for JSON."""
        return {
            **describe(self.dataset),
            "dropped": {
                "users": self.dropped_users,
                "items": self.dropped_items,
                "interactions": self.dropped_interactions,
                "short_users": self.short_users,
                "stray_titles": self.stray_titles,
                "skipped_records": self.skipped_records,
                "other_items": self.other_items,
                "other_interactions": self.other_interactions,
            },
            "duplicates": self.n_duplicates,
        }

    @property
    def warnings(self) -> list[str]:
        """One sentence for each thing that a user may want to know of."""
        overlapped = summarize(self.dataset.train, self.dataset.catalogue).users_overlapped
        sentences = (
            (self.skipped_records, f"{self.skipped_records:,} records could not be taken and were skipped"),
            (
                self.other_items or self.other_interactions,
                f"{self.other_items:,} items and {self.other_interactions:,} interactions of other domains "
                "were left out",
            ),
            (
                self.n_duplicates,
                f"{self.n_duplicates:,} interactions repeat one of the same user, item and time; "
                f"they were {'dropped' if self.duplicates == 'drop' else 'kept'}",
            ),
            (self.untitled_items, f"{self.untitled_items:,} items have no title"),
            (self.stray_titles, f"{self.stray_titles:,} titles are of items that are in no item set"),
            (
                self.dropped_interactions or self.dropped_items,
                f"the k-core filter dropped {self.dropped_users:,} users, {self.dropped_items:,} items and "
                f"{self.dropped_interactions:,} interactions",
            ),
            (self.short_users, f"{self.short_users:,} training users with fewer than two items were dropped"),
            (
                overlapped == 0 and len(self.dataset.catalogue.domains) > 1,
                "no training user has items in several domains: nothing ties them together",
            ),
        )
        return [*self.notes, *(sentence for applies, sentence in sentences if applies)]


def ingest(
    source: Any,
    output: str | Path,
    *,
    items: Any = None,
    settings: IngestSettings | None = None,
    overwrite: bool = False,
    progress: ReadingProgress | None = None,
) -> IngestResult:
    """Read interactions and write a data set folder.

    Parameters
    ----------
    source, items
        See `read_dataset`.
    output : str or Path
        The data set folder to write. Records that are skipped go to a file beside it, its name with
        ``.rejects.jsonl`` after it.
    settings : IngestSettings, optional
        How to read and split; the defaults if None.
    overwrite : bool
        Replace a data set folder that is there. A folder of anything else is never replaced.
    progress : callable, optional
        See `read_dataset`.

    Returns
    -------
    IngestResult
        The data set, and counts of what was left out.

    Raises
    ------
    DataError
        If the source is not as it must be (the message names file and line), nothing is left after
        filtering, or the output is in the way.
    UsageError
        If the arguments do not go together.

    Examples
    --------
    >>> settings = IngestSettings(domains=("Food", "Kitchen"))
    >>> ingest("ratings.csv.gz", "dataset", items="items.csv", settings=settings)  # doctest: +SKIP
    """
    output = Path(output)
    settings = settings or IngestSettings()
    _check_output(output, overwrite, [Path(s) for s in (source, items) if isinstance(s, (str, Path))])
    rejects = output.with_name(output.name + ".rejects.jsonl")
    result = read_dataset(source, items=items, settings=settings, rejects=rejects, progress=progress)
    described = _describe(source, items, settings, result)
    save_dataset(result.dataset, output, source=described, overwrite=overwrite)
    return result


def read_dataset(
    source: Any,
    *,
    items: Any = None,
    settings: IngestSettings | None = None,
    rejects: str | Path | None = None,
    progress: ReadingProgress | None = None,
) -> IngestResult:
    """Read interactions, filter and split them.

    Parameters
    ----------
    source : str, Path, Query, DataFrame or Arrow data
        Interactions: a file of CSV, TSV, JSON Lines or Parquet, a glob or a folder of such files, a query, or
        a frame, table or relation of pandas, polars, Arrow or DuckDB. Or a folder in the official layout.
    items : the same, optional
        The items with domain and title; without them the interactions name these.
    settings : IngestSettings, optional
        How to read and split; the defaults if None.
    rejects : str or Path, optional
        File for records that are skipped, with ``on_error="skip"``.
    progress : callable, optional
        Told from another thread, a few times a second, what is done and how many per cent of it are.

    Returns
    -------
    IngestResult

    Raises
    ------
    DataError, UsageError
        See `ingest`.
    """
    settings = settings or IngestSettings()
    if is_official(source):
        if items is not None:
            raise UsageError(f"{source}: the official layout has items of its own; leave the items out")
        return _from_official(Path(source), settings)
    rejects = None if rejects is None else Path(rejects)
    table = read_events(source, items, settings, rejects=rejects, progress=progress)
    return _from_events(_name(source), table, settings)


def _check_official_settings(folder: Path, settings: IngestSettings) -> None:
    """Refuse what would be of no effect."""
    default = asdict(IngestSettings(settings.domains))
    changed = [name for name, value in asdict(settings).items() if value != default[name]]
    if changed:
        raise UsageError(
            f"{folder}: a folder is in the official layout, which is filtered and split already; "
            f"leave out {', '.join(changed)}"
        )


def _from_official(folder: Path, settings: IngestSettings) -> IngestResult:
    _check_official_settings(folder, settings)
    names = settings.domains or ("A", "B")
    if len(names) != 2:
        raise UsageError(f"{folder}: the official layout has two domains, found {len(names)} names for them")
    dataset, stray_titles = read_official(folder, (names[0], names[1]))
    splits = Splits(dataset.train, dataset.valid, dataset.test)
    return _finish(str(folder), dataset.catalogue, splits, stray_titles=stray_titles)


def _from_events(name: str, table: EventTable, settings: IngestSettings) -> IngestResult:
    users, codes, times = table.user_codes, table.item_codes, table.times
    repeated = near_duplicates(users, codes, times)
    chosen = np.flatnonzero(~repeated) if settings.duplicates == "drop" else np.arange(len(users))
    kept = chosen[k_core(users[chosen], codes[chosen], settings.core)]
    if not len(kept):
        raise DataError(
            f"{name}: the {settings.core}-core filter left nothing of {len(chosen):,} interactions; "
            "choose a smaller core"
        )
    _check_domains(name, table.items, codes, kept, settings)
    catalogue, row_of_code = _remaining_items(table.items, codes[kept], settings.core)
    user_ids, user_of_code = _remaining_users(table, kept)
    histories = pack_histories(user_of_code[users[kept]], row_of_code[codes[kept]], user_ids)
    if settings.split == "auto":
        settings = replace(settings, split="overlapped" if table.unit == "number" else "time")
    return _finish(
        name,
        catalogue,
        _split(name, histories, times[kept], catalogue, settings),
        test_positions="every" if settings.split == "time" else "last",
        dropped_users=len(table.user_ids) - len(user_ids),
        dropped_items=len(table.items.ids) - len(catalogue),
        dropped_interactions=len(chosen) - len(kept),
        n_duplicates=int(repeated.sum()),
        duplicates=settings.duplicates,
        skipped_records=table.n_skipped,
        other_items=table.items.n_others,
        other_interactions=table.n_others,
        notes=table.notes,
    )


def _name(source: Any) -> str:
    """What messages call a source."""
    if isinstance(source, (str, Path)):
        return str(source)
    return "the query" if isinstance(source, Query) else "the events"


def _check_domains(
    name: str,
    items: ItemTable,
    codes: npt.NDArray[np.int32],
    kept: npt.NDArray[np.int64],
    settings: IngestSettings,
) -> None:
    """Refuse a domain without interactions, and tell apart who left it out: source or filter."""
    domains = np.searchsorted(items.stops, codes, side="right")
    before, after = (np.bincount(d, minlength=len(items.domains)) for d in (domains, domains[kept]))
    for domain, n_before, n_after in zip(items.domains, before, after, strict=True):
        if not n_before:
            raise DataError(f"{name}: no interaction has an item of domain {domain!r}")
        if not n_after:
            raise DataError(
                f"{name}: no item of domain {domain!r} is left after the {settings.core}-core filter; "
                "choose a smaller core"
            )


def _split(
    name: str,
    histories: Histories,
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    catalogue: Catalogue,
    settings: IngestSettings,
) -> Splits:
    """Hold users or items out, as the settings say."""
    shares = settings.valid_share, settings.test_share
    try:
        if settings.split == "time":
            return hold_out_by_time(histories, times, *shares, first_alone=settings.targets == "first")
        if settings.split == "leave-one-out":
            return leave_one_out(histories)
        return hold_out_overlapped(histories, catalogue, *shares, settings.seed)
    except DataError as error:
        advice = "; a smaller core may leave more" if settings.core > 1 else ""
        raise DataError(f"{name}: {error}{advice}") from None


def _remaining_items(
    items: ItemTable, codes: npt.NDArray[np.int32], core: int
) -> tuple[Catalogue, npt.NDArray[np.int32]]:
    """Catalogue of the items that stay, and the row of every code (those that go have row 0)."""
    stays = np.bincount(codes, minlength=len(items.ids)) >= min(core, 1)
    row_of_code = np.where(stays, np.cumsum(stays), 0).astype(np.int32)
    remaining = np.flatnonzero(stays)
    domains = np.searchsorted(items.stops, remaining, side="right")
    sizes = np.bincount(domains, minlength=len(items.domains)).tolist()
    ids = [items.ids[code] for code in remaining]
    titles = [items.titles[code] for code in remaining]
    return Catalogue.from_sizes(ids, titles, items.domains, sizes), row_of_code


def _remaining_users(
    table: EventTable, kept: npt.NDArray[np.int64]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Ids of the users that stay, and the position of every user code among them."""
    stays = np.zeros(len(table.user_ids), dtype=np.bool_)
    stays[table.user_codes[kept]] = True
    position_of_code = (np.cumsum(stays) - 1).astype(np.int32)
    return [table.user_ids[code] for code in np.flatnonzero(stays)], position_of_code


def _finish(
    name: str,
    catalogue: Catalogue,
    splits: Splits,
    *,
    test_positions: Positions = "last",
    **counts: Any,
) -> IngestResult:
    train = drop_short(splits.train)
    if not len(train):
        raise DataError(f"{name}: no training history of two items or more is left after the hold-out split")
    return IngestResult(
        Dataset(catalogue, train, splits.valid, splits.test, test_positions),
        untitled_items=sum(not title for title in catalogue.titles),
        short_users=int((splits.train.lengths == 1).sum()),
        **counts,
    )


def _check_output(output: Path, overwrite: bool, sources: list[Path]) -> None:
    """Find what would stop the writing before hours of reading, and keep what must not be replaced."""
    for source in sources:
        if source.resolve().is_relative_to(output.resolve()):
            raise DataError(f"{output}: is or holds the source {source}; choose another name for the output")
    check_folder(output, DATASET, overwrite=overwrite)


def _describe(source: Any, items: Any, settings: IngestSettings, result: IngestResult) -> dict[str, Any]:
    """What dataset.json says of the source."""
    name = Path(source).name if isinstance(source, (str, Path)) else _name(source)
    if is_official(source):
        return {"layout": "official", "name": name}
    return {
        "layout": "interactions",
        "name": name,
        "items": Path(items).name if isinstance(items, (str, Path)) else items and _name(items),
        "settings": asdict(settings),
        "dropped_users": result.dropped_users,
        "dropped_items": result.dropped_items,
        "dropped_interactions": result.dropped_interactions,
        "short_users": result.short_users,
    }
