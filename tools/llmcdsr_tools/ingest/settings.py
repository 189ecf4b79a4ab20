"""Settings of the stage `ingest`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmcdsr_lite.bundle.config import MAX_DOMAINS
from llmcdsr_lite.errors import SettingsError
from llmcdsr_tools.settings import Natural, Share, check_settings

Split = Literal["overlapped", "leave-one-out"]


@dataclass(frozen=True)
class Columns:
    """Names of the columns (in JSON Lines, of the fields) that hold what is wanted."""

    user: str = "user"
    item: str = "item"
    domain: str = "domain"
    timestamp: str = "timestamp"
    title: str = "title"

    def __post_init__(self) -> None:
        for wanted in (
            (self.user, self.item, self.domain, self.timestamp),
            (self.item, self.domain, self.title),
        ):
            if len(set(wanted)) != len(wanted):
                raise SettingsError(f"columns: one name stands for two columns: {', '.join(wanted)}")


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
        Hold out whole users of several domains, or the last items of every history. Where there is one
        domain, any users.
    valid_share, test_share : float
        Of those users; of no effect with leave-one-out.
    seed : int
        Of the users to hold out.

    Raises
    ------
    SettingsError
        If a setting is out of its range.
    """

    domains: tuple[str, ...] | None = None
    columns: Columns = field(default_factory=Columns)
    core: Natural = 5
    split: Split = "overlapped"
    valid_share: Share = 0.1
    test_share: Share = 0.1
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.domains is not None and (
            not 1 <= len(self.domains) <= MAX_DOMAINS
            or len(set(self.domains)) != len(self.domains)
            or not all(name.strip() for name in self.domains)
        ):
            given = ", ".join(map(repr, self.domains))
            raise SettingsError(f"domains must be 1 to {MAX_DOMAINS} different names, found {given}")
        if self.valid_share + self.test_share > 1:
            raise SettingsError(
                f"valid_share and test_share must be at most 1 together, found {self.valid_share} and "
                f"{self.test_share}"
            )
