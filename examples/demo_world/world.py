"""An invented shop's log: who bought which groceries and kitchenware, with planted shared interests.

`write_demo_world` writes what the ingest stage reads, so that the demo model goes through the whole
pipeline. Every user has one to three interests and shops in bursts. Within a burst, one thing leads to
another: the next item stands soon after the last one in the thread's list (`items.toml`), and a
user of both domains who crosses over goes on at about the same place of the other list. That is what
a model can learn, in the domain and across; the rest is popularity and noise.
"""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demo_world.items import DOMAINS, DemoCatalogue, SampleHistory, load_demo_items
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.files import atomic_file

__all__ = ["DOMAINS", "DemoUser", "DemoWorld", "generate_users", "sample_histories", "write_demo_world"]

MIN_LENGTH, MAX_LENGTH = 5, 30
MIN_OVERLAP = 2
"""Items that a user of both domains has in each of them, at least."""

KIND_SHARES = (0.46, 0.46, 0.08)  # groceries only, kitchenware only, both
MEAN_LENGTHS = (8.0, 8.0, 11.0)  # by kind, before the cut at MAX_LENGTH
N_INTERESTS_SHARES = (0.5, 0.35, 0.15)  # one, two, three
INTEREST_EXPONENT = 0.4  # Zipf; flat enough that the rarest interest can still be learned
ITEM_EXPONENT = 0.6
RELATED_SHARE = 0.6  # of further interests that are related to the first
FAVOURITE_THREAD = 0.7  # of bursts that keep to the user's favourite thread of the interest
NOISE = 0.12
NEUTRAL_NOISE = 0.7  # of the noise; the rest is any item of the domain
GO_ON = 0.8  # chance that a burst goes on
FOLLOW = 0.65  # chance that the next item is one of those soon after the last
FOLLOW_STEPS = (0.55, 0.3, 0.15)  # one, two, three lines on
GEAR_FIRST, GEAR_LATER = 0.7, 0.4  # chance that an interest's first burst, a later one, starts with gear
CROSS = 0.35  # chance to change the domain within a burst

START = 1_672_531_200  # 2023-01-01, UTC
DAY = 86_400
FIRST_DAYS, DAYS_WITHIN_BURST, DAYS_BETWEEN_BURSTS = 300, 2.0, 20.0


@dataclass(frozen=True)
class DemoUser:
    """One user and what they bought.

    Parameters
    ----------
    id : str
        User id, like "user-00001".
    interests : tuple of str
        Names of the user's interests.
    items : tuple of int
        Positions in `DemoCatalogue.items`, oldest first, none twice.
    times : tuple of int
        Seconds since 1970, strictly rising.
    """

    id: str
    interests: tuple[str, ...]
    items: tuple[int, ...]
    times: tuple[int, ...]


@dataclass(frozen=True)
class DemoWorld:
    """What `write_demo_world` wrote.

    Parameters
    ----------
    interactions : Path
        ``interactions.csv.gz``: user, item, domain, timestamp; in order of time.
    items : Path
        ``items.csv``: item, domain, title; groceries first.
    n_users, n_items, n_interactions : int
        How much is in them.
    """

    interactions: Path
    items: Path
    n_users: int
    n_items: int
    n_interactions: int


def write_demo_world(folder: Path, *, n_users: int = 6000, seed: int = 0) -> DemoWorld:
    """Write the interactions file and the items file of the demo world.

    The same arguments give the same bytes. Files that are there are replaced.

    Parameters
    ----------
    folder : Path
        Where; made if it does not exist.
    n_users : int
        Number of users.
    seed : int
        Seed of all that is drawn.

    Returns
    -------
    DemoWorld
        The paths, and how much is in the files.

    Raises
    ------
    UsageError
        If `n_users` is below 1 or `seed` below 0.
    """
    users = generate_users(n_users=n_users, seed=seed)
    items = load_demo_items().items
    events = sorted(
        (time, user.id, item) for user in users for item, time in zip(user.items, user.times, strict=True)
    )
    world = DemoWorld(
        folder / "interactions.csv.gz", folder / "items.csv", len(users), len(items), len(events)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(world.items) as path:
        path.write_bytes(_csv(("item", "domain", "title"), ((i.id, i.domain, i.title) for i in items)))
    log = _csv(
        ("user", "item", "domain", "timestamp"),
        ((user, items[n].id, items[n].domain, str(time)) for time, user, n in events),
    )
    with atomic_file(world.interactions) as path:
        path.write_bytes(gzip.compress(log, mtime=0))
    return world


def generate_users(*, n_users: int = 6000, seed: int = 0) -> list[DemoUser]:
    """Draw the users of the demo world and their histories.

    Every user has a generator of their own, so fewer users are the first of more users.

    Parameters
    ----------
    n_users : int
        Number of users.
    seed : int
        Seed of all that is drawn.

    Raises
    ------
    UsageError
        If `n_users` is below 1 or `seed` below 0.
    """
    if n_users < 1 or seed < 0:
        raise UsageError(f"n_users is {n_users} and seed is {seed}, expected at least 1 and at least 0")
    catalogue = load_demo_items()
    return [_draw_user(np.random.default_rng([seed, n]), catalogue, n) for n in range(1, n_users + 1)]


def sample_histories() -> list[SampleHistory]:
    """Readable single-domain histories to try the demo with, each asking for the other domain."""
    return list(load_demo_items().samples)


def _draw_user(rng: np.random.Generator, catalogue: DemoCatalogue, number: int) -> DemoUser:
    kind = _draw(rng, KIND_SHARES)
    # all lengths from the shortest up can come, the longer the rarer
    length = min(MAX_LENGTH, MIN_LENGTH - 1 + int(rng.geometric(1 / (MEAN_LENGTHS[kind] - MIN_LENGTH + 1))))
    interests = _draw_interests(rng, catalogue)
    trip = _Trip(rng, catalogue, interests, domains=(0, 1) if kind == 2 else (kind,))
    gaps: list[float] = []
    while len(trip.bought) < length:
        trip.step(length - len(trip.bought))
        days = DAYS_BETWEEN_BURSTS if trip.at_burst_start else DAYS_WITHIN_BURST
        gaps.append(1 + DAY * rng.exponential(days))  # a second more, so that times rise
    gaps[0] = DAY * rng.uniform(0, FIRST_DAYS)
    # cumsum of rounded-up gaps: whole seconds, still strictly rising
    times = START + np.cumsum(np.ceil(gaps)).astype(np.int64)
    names = tuple(catalogue.interests[n].name for n in interests)
    return DemoUser(f"user-{number:05}", names, tuple(trip.bought), tuple(times.tolist()))


def _draw_interests(rng: np.random.Generator, catalogue: DemoCatalogue) -> list[int]:
    """One to three interests, the first by popularity, most of the others related to it."""
    position = {interest.name: n for n, interest in enumerate(catalogue.interests)}
    popularity = _zipf(len(catalogue.interests), INTEREST_EXPONENT)
    chosen = [_draw(rng, popularity)]
    related = [position[name] for name in catalogue.interests[chosen[0]].related]
    for _ in range(_draw(rng, N_INTERESTS_SHARES)):
        pool = related if rng.random() < RELATED_SHARE else list(position.values())
        open_to = [n for n in pool if n not in chosen]  # never empty: three related, two more at most
        chosen.append(open_to[_draw(rng, popularity[open_to])])
    return chosen


class _Trip:
    """One user's way through the shop: `step` buys one item."""

    def __init__(
        self,
        rng: np.random.Generator,
        catalogue: DemoCatalogue,
        interests: Sequence[int],
        domains: Sequence[int],
    ) -> None:
        self.rng, self.catalogue = rng, catalogue
        self.interests, self.domains = interests, domains
        self.favourite = [int(rng.integers(len(catalogue.interests[n].threads))) for n in interests]
        self.bought: list[int] = []
        self.begun: set[int] = set()  # interests with a burst behind them
        self.at_burst_start = True
        self.domain, self.place = domains[0], -1  # place: line of the thread's list, -1 for none yet
        self.interest = self.thread = 0

    def step(self, left: int) -> None:
        """Buy the next item; `left` counts it and those to come."""
        self.at_burst_start = not self.bought or self.rng.random() >= GO_ON
        if self.at_burst_start:
            self._start_burst()
        elif len(self.domains) == 2 and self.rng.random() < CROSS:
            self.domain = 1 - self.domain
        self._keep_both_domains(left)
        self.bought.append(self._noise() if self.rng.random() < NOISE else self._next_of_thread())

    def _start_burst(self) -> None:
        # the first interest is the strongest
        own = _draw(self.rng, _zipf(len(self.interests), 1.0))
        self.interest = self.interests[own]
        self.thread, self.place = self.favourite[own], -1
        if self.rng.random() >= FAVOURITE_THREAD:
            self.thread = int(self.rng.integers(len(self.catalogue.interests[self.interest].threads)))
        if len(self.domains) == 2:
            gear = GEAR_LATER if self.interest in self.begun else GEAR_FIRST
            self.domain = int(self.rng.random() < gear)
        self.begun.add(self.interest)

    def _keep_both_domains(self, left: int) -> None:
        """Change the domain if otherwise one of the two would come off short."""
        if len(self.domains) == 2:
            n_kitchenware = sum(item >= self.catalogue.n_groceries for item in self.bought)
            have = (len(self.bought) - n_kitchenware, n_kitchenware)
            for domain in self.domains:
                if MIN_OVERLAP - have[domain] >= left:
                    self.domain = domain

    def _noise(self) -> int:
        if self.rng.random() < NEUTRAL_NOISE:
            items = self._unseen(self.catalogue.neutral[self.domain])
            if items:
                return items[_draw(self.rng, _zipf(len(items), ITEM_EXPONENT))]
        return self._any_item()

    def _next_of_thread(self) -> int:
        shelf = self.catalogue.interests[self.interest].threads[self.thread][self.domain]
        place = self._follow(shelf) if self.place >= 0 and self.rng.random() < FOLLOW else -1
        if place < 0:
            unseen = [n for n, item in enumerate(shelf) if item not in self.bought]
            if not unseen:  # the thread is exhausted: look at the whole interest
                self.place = -1
                return self._any_of_interest()
            place = unseen[_draw(self.rng, _zipf(len(shelf), ITEM_EXPONENT)[unseen])]
        self.place = place
        return shelf[place]

    def _follow(self, shelf: Sequence[int]) -> int:
        """Place of an unseen item soon after the last place, -1 if there is none."""
        place = self.place + 1 + _draw(self.rng, FOLLOW_STEPS)
        return place if place < len(shelf) and shelf[place] not in self.bought else -1

    def _any_of_interest(self) -> int:
        threads = self.catalogue.interests[self.interest].threads
        items = self._unseen(item for thread in threads for item in thread[self.domain])
        return items[int(self.rng.integers(len(items)))] if items else self._any_item()

    def _any_item(self) -> int:
        first = self.catalogue.n_groceries
        domain = range(first) if self.domain == 0 else range(first, len(self.catalogue.items))
        items = self._unseen(domain)
        return items[int(self.rng.integers(len(items)))]

    def _unseen(self, items: Iterable[int]) -> list[int]:
        return [item for item in items if item not in self.bought]


def _zipf(n: int, exponent: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weights


def _draw(rng: np.random.Generator, weights: Sequence[float] | npt.NDArray[np.float64]) -> int:
    """Position drawn with these weights, which need not sum to one."""
    upto = np.cumsum(weights)
    # below 1, but the product may round up to the sum
    return min(int(np.searchsorted(upto, rng.random() * upto[-1], side="right")), len(upto) - 1)


def write_sample(folder: Path, *, n_users: int = 800) -> None:
    """Write the small sample of events for the README: events.csv.gz, events.parquet and items.csv."""
    import duckdb

    with tempfile.TemporaryDirectory() as name:
        world = write_demo_world(Path(name), n_users=n_users)
        (folder / "events.csv.gz").write_bytes(world.interactions.read_bytes())
        (folder / "items.csv").write_bytes(world.items.read_bytes())
    query = f"SELECT * FROM read_csv('{folder / 'events.csv.gz'}', types={{'timestamp': 'BIGINT'}})"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{folder / 'events.parquet'}'")


def _csv(header: Sequence[str], records: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(records)
    return text.getvalue().encode("utf-8")
