"""What a scoring job is told, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.histories import FileFormat
from llmcdsr_lite.request import check_choice

MAX_PROCESSES = 1024
MAX_BATCH = 1 << 20  # users; their answers must fit into memory


@dataclass(frozen=True)
class ScoreSettings:
    """How histories are scored.

    Parameters
    ----------
    k : int
        Items a user.
    domain : str, optional
        Recommend from this domain where a record names none.
    exclude_seen : bool, optional
        Leave out the items of the history; None does as the bundle has it.
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
    exclude_seen: bool | None = None
    on_error: Literal["fail", "skip"] = "fail"
    titles: bool = False
    input_format: FileFormat | None = None
    output_format: FileFormat | None = None
    separator: str = " "
    batch_size: int = 256
    pseudo: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        check_sizes(self.k, self.batch_size)
        if not self.separator:
            raise UsageError("the separator must not be empty")
        check_choice("on_error", self.on_error, ("fail", "skip"))
        check_choice("pseudo", self.pseudo, ("auto", "off"))
        for name in ("input_format", "output_format"):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), get_args(FileFormat))


def check_sizes(k: int, batch_size: int) -> None:
    """Refuse numbers of items and of users at a time that cannot be meant."""
    if k < 1:
        raise UsageError(f"k must be at least 1, found {k}")
    if not 1 <= batch_size <= MAX_BATCH:
        raise UsageError(f"batch_size must be from 1 to {MAX_BATCH:,}, found {batch_size}")


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
