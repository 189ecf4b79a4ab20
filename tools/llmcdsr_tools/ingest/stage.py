"""Stage 1, `ingest`: interactions of one or more domains become a data set folder.

Two kinds of source are read: a folder in the layout of the authors' own data (see `official`), already
filtered and split, and an interactions file with an items file (see `interactions`), which is filtered
and split here:

1. k-core filter over the interactions of all domains together (`splits.k_core`). The catalogue keeps
   the items that remain; with core 0 it keeps every item of the items file, with core 1 every item that
   somebody touched.
2. Histories, oldest item first; interactions of one time keep the order of the file.
3. Hold-out split: whole overlapped users, or the last items of every history (`splits`).
4. Training histories of fewer than two items are dropped: there is no next item to learn from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.files import check_folder
from llmcdsr_tools.dataset import DATASET, Dataset, Histories, save_dataset, summarize
from llmcdsr_tools.dataset_summary import describe
from llmcdsr_tools.ingest.interactions import InteractionTable, ItemTable, read_interactions, read_items
from llmcdsr_tools.ingest.official import read_official
from llmcdsr_tools.ingest.settings import IngestSettings
from llmcdsr_tools.ingest.splits import (
    Splits,
    drop_short,
    hold_out_overlapped,
    k_core,
    leave_one_out,
    pack_histories,
)


@dataclass(frozen=True)
class IngestResult:
    """The data set and what did not make it in.

    Parameters
    ----------
    dataset : Dataset
        What was written.
    untitled_items : int
        Items of the catalogue without a title.
    dropped_users, dropped_items, dropped_interactions : int
        What the k-core filter dropped; items of the items file that nobody touched are counted too.
    short_users : int
        Training users dropped for having fewer than two items.
    stray_titles : int
        Titles in the official layout whose item is in no item set.
    """

    dataset: Dataset
    untitled_items: int
    dropped_users: int = 0
    dropped_items: int = 0
    dropped_interactions: int = 0
    short_users: int = 0
    stray_titles: int = 0

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
            },
        }

    @property
    def warnings(self) -> list[str]:
        """One sentence for each thing that a user may want to know of."""
        overlapped = summarize(self.dataset.train, self.dataset.catalogue).users_overlapped
        sentences = (
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
        return [sentence for applies, sentence in sentences if applies]


def ingest(
    source: str | Path,
    output: str | Path,
    *,
    items: str | Path | None = None,
    settings: IngestSettings | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IngestResult:
    """Read interactions and write a data set folder.

    Parameters
    ----------
    source : str or Path
        A folder in the official layout, or an interactions file.
    output : str or Path
        The data set folder to write.
    items : str or Path, optional
        Items file; needed with an interactions file, and only there.
    settings : IngestSettings, optional
        How to read and split; the defaults if None.
    overwrite : bool
        Replace a data set folder that is there. A folder of anything else is never replaced.
    progress : callable, optional
        Called now and then with the number of interactions read so far.

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
    >>> ingest(  # doctest: +SKIP
    ...     Path("ratings.csv.gz"),
    ...     Path("dataset"),
    ...     items=Path("items.csv"),
    ...     settings=IngestSettings(domains=("Food", "Kitchen")),
    ... )
    """
    source = Path(source)
    output = Path(output)
    items = None if items is None else Path(items)
    settings = settings or IngestSettings()
    _check_output(output, overwrite, [source] if items is None else [source, items])
    if source.is_dir():
        if items is not None:
            raise UsageError(f"{source}: is a folder, which has its own items; leave the items file out")
        _check_official_settings(source, settings)
        result = _from_official(source, settings, progress)
    else:
        if items is None:
            raise UsageError(
                f"{source}: an interactions file needs an items file with item, domain and title"
            )
        result = _from_interactions(source, items, settings, progress)
    save_dataset(
        result.dataset, output, source=_describe(source, items, settings, result), overwrite=overwrite
    )
    return result


def _check_official_settings(folder: Path, settings: IngestSettings) -> None:
    """Refuse what would be of no effect."""
    default = asdict(IngestSettings(settings.domains))
    changed = [name for name, value in asdict(settings).items() if value != default[name]]
    if changed:
        raise UsageError(
            f"{folder}: a folder is in the official layout, which is filtered and split already; "
            f"leave out {', '.join(changed)}"
        )


def _from_official(
    folder: Path, settings: IngestSettings, progress: Callable[[int], None] | None
) -> IngestResult:
    names = settings.domains or ("A", "B")
    if len(names) != 2:
        raise UsageError(f"{folder}: the official layout has two domains, found {len(names)} names for them")
    dataset, stray_titles = read_official(folder, (names[0], names[1]), progress)
    splits = Splits(dataset.train, dataset.valid, dataset.test)
    return _finish(folder, dataset.catalogue, splits, stray_titles=stray_titles)


def _from_interactions(
    path: Path, items_path: Path, settings: IngestSettings, progress: Callable[[int], None] | None
) -> IngestResult:
    items = read_items(items_path, settings.columns, settings.domains)
    table = read_interactions(path, items, settings.columns, progress)
    n_read = len(table.users)
    kept = k_core(table.users, table.items, settings.core)
    if not len(kept):
        raise DataError(
            f"{path}: the {settings.core}-core filter left nothing of {n_read:,} interactions; "
            "choose a smaller core"
        )
    _check_domains(path, items, table.items, kept, settings)
    catalogue, row_of_code = _remaining_items(items, table.items[kept], settings.core)
    user_ids, user_of_code = _remaining_users(table, kept)
    histories = pack_histories(
        user_of_code[table.users[kept]], row_of_code[table.items[kept]], table.times[kept], user_ids
    )
    splits = _split(path, histories, catalogue, settings)
    return _finish(
        path,
        catalogue,
        splits,
        dropped_users=len(table.user_ids) - len(user_ids),
        dropped_items=len(items.ids) - len(catalogue),
        dropped_interactions=n_read - len(kept),
    )


def _check_domains(
    path: Path,
    items: ItemTable,
    codes: npt.NDArray[np.int32],
    kept: npt.NDArray[np.int64],
    settings: IngestSettings,
) -> None:
    """Refuse a domain without interactions, and tell apart who left it out: file or filter."""
    domains = np.searchsorted(items.stops, codes, side="right")
    before, after = (np.bincount(d, minlength=len(items.domains)) for d in (domains, domains[kept]))
    for name, n_before, n_after in zip(items.domains, before, after, strict=True):
        if not n_before:
            raise DataError(f"{path}: no interaction has an item of domain {name!r}")
        if not n_after:
            raise DataError(
                f"{path}: no item of domain {name!r} is left after the {settings.core}-core filter; "
                "choose a smaller core"
            )


def _split(path: Path, histories: Histories, catalogue: Catalogue, settings: IngestSettings) -> Splits:
    """Hold users or items out, as the settings say."""
    try:
        if settings.split == "leave-one-out":
            return leave_one_out(histories)
        return hold_out_overlapped(
            histories, catalogue, settings.valid_share, settings.test_share, settings.seed
        )
    except DataError as error:
        advice = "; a smaller core may leave more" if settings.core > 1 else ""
        raise DataError(f"{path}: {error}{advice}") from None


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
    table: InteractionTable, kept: npt.NDArray[np.int64]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Ids of the users that stay, and the position of every user code among them."""
    stays = np.zeros(len(table.user_ids), dtype=np.bool_)
    stays[table.users[kept]] = True
    position_of_code = (np.cumsum(stays) - 1).astype(np.int32)
    return [table.user_ids[code] for code in np.flatnonzero(stays)], position_of_code


def _finish(
    source: Path,
    catalogue: Catalogue,
    splits: Splits,
    *,
    dropped_users: int = 0,
    dropped_items: int = 0,
    dropped_interactions: int = 0,
    stray_titles: int = 0,
) -> IngestResult:
    train = drop_short(splits.train)
    if not len(train):
        raise DataError(
            f"{source}: no training history of two items or more is left after the hold-out split"
        )
    return IngestResult(
        Dataset(catalogue, train, splits.valid, splits.test),
        untitled_items=sum(not title for title in catalogue.titles),
        dropped_users=dropped_users,
        dropped_items=dropped_items,
        dropped_interactions=dropped_interactions,
        short_users=len(splits.train) - len(train),
        stray_titles=stray_titles,
    )


def _check_output(output: Path, overwrite: bool, sources: list[Path]) -> None:
    """Find what would stop the writing before hours of reading, and keep what must not be replaced."""
    for source in sources:
        if source.resolve().is_relative_to(output.resolve()):
            raise DataError(f"{output}: is or holds the source {source}; choose another name for the output")
    check_folder(output, DATASET, overwrite=overwrite)


def _describe(
    source: Path, items: Path | None, settings: IngestSettings, result: IngestResult
) -> dict[str, Any]:
    """What dataset.json says of the source."""
    if items is None:
        return {"layout": "official", "name": source.name}
    return {
        "layout": "interactions",
        "name": source.name,
        "items": items.name,
        "settings": asdict(settings),
        "dropped_users": result.dropped_users,
        "dropped_items": result.dropped_items,
        "dropped_interactions": result.dropped_interactions,
        "short_users": result.short_users,
    }
