"""Settings of the stage `ingest`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from llmcdsr_lite.bundle.config import MAX_DOMAINS
from llmcdsr_lite.errors import SettingsError
from llmcdsr_tools.setting_fields import Count, Natural, Share, check_settings

Split = Literal["auto", "time", "overlapped", "leave-one-out"]


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
        Names of the domains to keep, in this order, as the domain column has them; items of others and their
        interactions are left out. All that the items have, in order of appearance, unless given. The official
        layout has no names: "A" and "B" unless given.
    columns : Columns
        Names of the columns.
    where : str, optional
        Condition in SQL that interactions must meet, such as "event = 'purchase' and price > 0".
    min_items : int
        Items that a domain needs, where all are kept.
    core : int
        Least number of interactions of every user and item; 0 or 1 for no filter.
    duplicates : {"keep", "drop"}
        Interactions of one user with one item at one time: all of them, or the first.
    split : {"auto", "time", "overlapped", "leave-one-out"}
        Hold out what comes after a moment, whole users of several domains, or the last items of every
        history; auto: time, where timestamps are dates or count from 1970, else overlapped. Of one domain,
        overlapped holds out any users.
    valid_share, test_share : float
        Of the interactions, or of those users; of no effect with leave-one-out.
    targets : {"all", "first"}
        Of a history after the moment of the time split: every interaction is a target, or the first.
    seed : int
        Of the users to hold out.
    on_error : {"fail", "skip"}
        Stop at records that cannot be taken, or leave them out.

    Raises
    ------
    SettingsError
        If a setting is out of its range.
    """

    domains: tuple[str, ...] | None = None
    columns: Columns = field(default_factory=Columns)
    where: str | None = None
    min_items: Count = 1
    core: Natural = 5
    duplicates: Literal["keep", "drop"] = "keep"
    split: Split = "auto"
    valid_share: Share = 0.1
    test_share: Share = 0.1
    targets: Literal["all", "first"] = "all"
    seed: Natural = 0
    on_error: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        check_settings(self)
        if isinstance(self.domains, str) or not isinstance(self.domains, Collection | None):
            raise SettingsError(f"domains must be a sequence of names, found {self.domains!r:.60}")
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
