"""Settings of the stage `ingest`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmcdsr_lite.errors import UsageError
from llmcdsr_tools.ingest.interactions import Columns


@dataclass(frozen=True)
class IngestSettings:
    """How to read and split. The official layout is split already: there only `domains` may be set.

    Parameters
    ----------
    domains : tuple of two str, optional
        Names of domain A and domain B, in this order, as the domain column has them. An interactions
        file needs them; the official layout has no names, there they default to "A" and "B".
    columns : Columns
        Names of the columns.
    core : int
        Least number of interactions of every user and item; 0 or 1 for no filter.
    split : {"overlapped", "leave-one-out"}
        Hold out whole overlapped users, or the last items of every history.
    valid_share, test_share : float
        Shares of the overlapped users to hold out; of no effect with "leave-one-out".
    seed : int
        Chooses the users to hold out.

    Raises
    ------
    UsageError
        If a setting is out of its range.
    """

    domains: tuple[str, str] | None = None
    columns: Columns = field(default_factory=Columns)
    core: int = 5
    split: Literal["overlapped", "leave-one-out"] = "overlapped"
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domains is not None and (
            len(self.domains) != 2 or len(set(self.domains)) != 2 or not all(n.strip() for n in self.domains)
        ):
            raise UsageError(f"settings: domains are {self.domains!r}, expected two different names")
        if self.core < 0:
            raise UsageError(f"settings: core is {self.core}, expected 0 or more")
        if self.split not in ("overlapped", "leave-one-out"):
            raise UsageError(f"settings: split is {self.split!r}, expected 'overlapped' or 'leave-one-out'")
        shares = (self.valid_share, self.test_share)
        if not (all(0 <= share < 1 for share in shares) and sum(shares) <= 1):
            raise UsageError(f"settings: shares are {shares}, expected 0 <= share < 1 and at most 1 together")
        if self.seed < 0:
            raise UsageError(f"settings: seed is {self.seed}, expected 0 or more")
