"""Settings of the stage `ingest`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmcdsr_lite.bundle.config import MAX_DOMAINS
from llmcdsr_lite.errors import UsageError
from llmcdsr_tools.ingest.interactions import Columns


@dataclass(frozen=True)
class IngestSettings:
    """How to read and split. The official layout is split already: there only `domains` may be set.

    Parameters
    ----------
    domains : tuple of str, optional
        Names of the domains, in this order, as the domain column has them; all that the items file has, in
        order of appearance, unless given. The official layout has no names: "A" and "B" unless given.
    columns : Columns
        Names of the columns.
    core : int
        Least number of interactions of every user and item; 0 or 1 for no filter.
    split : {"overlapped", "leave-one-out"}
        Hold out whole overlapped users (where there is one domain, any users), or the last items of every
        history.
    valid_share, test_share : float
        Shares of those users to hold out; of no effect with "leave-one-out".
    seed : int
        Chooses the users to hold out.

    Raises
    ------
    UsageError
        If a setting is out of its range.
    """

    domains: tuple[str, ...] | None = None
    columns: Columns = field(default_factory=Columns)
    core: int = 5
    split: Literal["overlapped", "leave-one-out"] = "overlapped"
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domains is not None and (
            not 1 <= len(self.domains) <= MAX_DOMAINS
            or len(set(self.domains)) != len(self.domains)
            or not all(name.strip() for name in self.domains)
        ):
            raise UsageError(
                f"settings: domains are {self.domains!r}, expected 1 to {MAX_DOMAINS} different names"
            )
        if self.core < 0:
            raise UsageError(f"settings: core is {self.core}, expected 0 or more")
        if self.split not in ("overlapped", "leave-one-out"):
            raise UsageError(f"settings: split is {self.split!r}, expected 'overlapped' or 'leave-one-out'")
        shares = (self.valid_share, self.test_share)
        if not (all(0 <= share < 1 for share in shares) and sum(shares) <= 1):
            raise UsageError(f"settings: shares are {shares}, expected 0 <= share < 1 and at most 1 together")
        if self.seed < 0:
            raise UsageError(f"settings: seed is {self.seed}, expected 0 or more")
