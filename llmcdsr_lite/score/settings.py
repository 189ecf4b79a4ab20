"""What a scoring job is told, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.histories import FileFormat

MAX_PROCESSES = 1024


@dataclass(frozen=True)
class ScoreSettings:
    """How histories are scored.

    Parameters
    ----------
    k : int
        Items a user.
    domain : str, optional
        Recommend from this domain where a record names none.
    exclude_seen : bool
        Leave out the items of the history.
    on_error : {"fail", "skip"}
        Stop at the first bad record, or report it, leave it out and go on.
    titles : bool
        Write titles and domains beside ids and scores.
    input_format, output_format : {"jsonl", "csv"}, optional
        Told by the file names where not given.
    separator : str
        Between the item ids of a CSV history.
    batch_size : int
        Users scored at a time.
    pseudo : {"auto", "off"}
        Pseudo items as the bundle's settings have it, or none.
    """

    k: int = 10
    domain: str | None = None
    exclude_seen: bool = True
    on_error: Literal["fail", "skip"] = "fail"
    titles: bool = False
    input_format: FileFormat | None = None
    output_format: FileFormat | None = None
    separator: str = " "
    batch_size: int = 256
    pseudo: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.k < 1 or self.batch_size < 1:
            raise UsageError(f"k and batch_size must be at least 1, found {self.k} and {self.batch_size}")
        if not self.separator:
            raise UsageError("the separator must not be empty")
        if self.pseudo not in ("auto", "off"):
            raise UsageError(f"pseudo is {self.pseudo!r}, expected 'auto' or 'off'")


@dataclass
class ScoreSummary:
    """Counts of a scoring job; with `resume` those of the part done before are included.

    Parameters
    ----------
    records : int
        Records read.
    users : int
        Users scored.
    bad : int
        Records left out.
    unknown_items : int
        Items of histories that are not in the catalogue.
    fallbacks : int
        Users without a known item, who got the most popular items.
    """

    records: int = 0
    users: int = 0
    bad: int = 0
    unknown_items: int = 0
    fallbacks: int = 0
