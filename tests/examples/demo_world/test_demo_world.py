"""The demo world: sound files, planted interests that a simple count finds again."""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from demo_world import items as demo_items
from demo_world import world as demo_world
from demo_world.items import DemoItem, load_demo_items
from demo_world.world import (
    DOMAINS,
    DemoWorld,
    generate_users,
    sample_histories,
    write_demo_world,
    write_sample,
)
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.data.dataset import Dataset, content_hash
from llmcdsr_tools.data.dataset_summary import summarize
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.ingestion import ingest

N_USERS = 2500

History = list[tuple[str, str, int]]  # item, domain, timestamp


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> DemoWorld:
    return write_demo_world(tmp_path_factory.mktemp("demo") / "new", n_users=N_USERS)


@pytest.fixture(scope="module")
def item_rows(world: DemoWorld) -> list[dict[str, str]]:
    with world.items.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def log(world: DemoWorld) -> list[dict[str, str]]:
    with gzip.open(world.interactions, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def histories(log: list[dict[str, str]]) -> dict[str, History]:
    of_user: dict[str, History] = defaultdict(list)
    for record in log:
        of_user[record["user"]].append((record["item"], record["domain"], int(record["timestamp"])))
    return of_user


@pytest.fixture(scope="module")
def by_id() -> dict[str, DemoItem]:
    return {item.id: item for item in load_demo_items().items}


class TestItems:
    def test_ids_and_titles_are_unique(self, item_rows: list[dict[str, str]]) -> None:
        assert list(item_rows[0]) == ["item", "domain", "title"]
        assert len({row["item"] for row in item_rows}) == len(item_rows)
        assert len({row["title"].lower() for row in item_rows}) == len(item_rows)

    def test_both_domains_are_well_filled_groceries_first(self, item_rows: list[dict[str, str]]) -> None:
        domains = [row["domain"] for row in item_rows]
        assert all(350 <= domains.count(domain) <= 450 for domain in DOMAINS)
        assert domains == sorted(domains)
        assert load_demo_items().n_groceries == domains.count("groceries")

    def test_ids_are_readable(self, item_rows: list[dict[str, str]]) -> None:
        for row in item_rows:
            letter, *words = row["item"].split("-")
            assert letter == row["domain"][0]
            assert len(words) >= 2
            assert all((word.isalnum() and word.islower()) or word.isdigit() for word in words)

    def test_titles_are_plain_text(self, item_rows: list[dict[str, str]]) -> None:
        for row in item_rows:
            title = row["title"]
            assert title.isascii()
            assert title == " ".join(title.split())
            assert 8 <= len(title) <= 60
            assert not set(title) & set('@"\t')

    def test_every_interest_has_enough_of_both_domains(self) -> None:
        interests = load_demo_items().interests
        assert 12 <= len(interests) <= 16
        for interest in interests:
            for domain in (0, 1):
                of_interest = {item for thread in interest.threads for item in thread[domain]}
                assert 18 <= len(of_interest) <= 36, interest.name

    def test_related_interests_exist(self) -> None:
        interests = load_demo_items().interests
        names = {interest.name for interest in interests}
        for interest in interests:
            assert len(set(interest.related)) == 3
            assert set(interest.related) <= names - {interest.name}

    def test_some_items_belong_to_two_interests(self, by_id: dict[str, DemoItem]) -> None:
        assert by_id["k-coffee-handheld-milk-frother-wand"].interests == {"coffee", "breakfast"}
        assert sum(len(item.interests) > 1 for item in by_id.values()) >= 30

    def test_threads_hold_their_own_items_first(self, by_id: dict[str, DemoItem]) -> None:
        catalogue = load_demo_items()
        _, porridge, _ = next(i for i in catalogue.interests if i.name == "breakfast").threads
        titles = [catalogue.items[n].title for n in porridge[0]]
        assert titles[0] == "Jumbo Rolled Oats, 1.5 kg"
        assert "Barista Oat Drink for Foaming, 1 L" in titles[8:]

    def test_neutral_items_belong_to_no_interest(self) -> None:
        catalogue = load_demo_items()
        for of_domain, domain in zip(catalogue.neutral, DOMAINS, strict=True):
            assert len(of_domain) >= 20
            assert all(not catalogue.items[n].interests for n in of_domain)
            assert {catalogue.items[n].domain for n in of_domain} == {domain}

    def test_item_id_keeps_the_telling_words(self) -> None:
        made = demo_items.item_id("kitchenware", "tea", "Children's Pot for Tea with 2 Cups, 1 L")
        assert made == "k-tea-childrens-pot-2-cups"

    def test_two_titles_of_one_id_are_refused(self) -> None:
        twice = DemoItem("g-tea-x", "X, 1 kg", "groceries", ()), DemoItem("g-tea-x", "X", "groceries", ())
        with pytest.raises(DataError, match=r"'X' and 'X, 1 kg' make one id, 'g-tea-x'"):
            demo_items._check(twice, [])

    def test_an_unknown_thread_is_refused(self) -> None:
        item = DemoItem("g-tea-x", "X", "groceries", ("tea/blue",))
        with pytest.raises(DataError, match=r"'X' is put into 'tea/blue', which is no thread"):
            demo_items._check([item], [{"name": "tea", "thread": [{"name": "black"}]}])


class TestLog:
    def test_counts_are_those_reported(
        self, world: DemoWorld, log: list[dict[str, str]], item_rows: list[dict[str, str]]
    ) -> None:
        assert list(log[0]) == ["user", "item", "domain", "timestamp"]
        assert len(log) == world.n_interactions
        assert len(item_rows) == world.n_items
        assert len({record["user"] for record in log}) == world.n_users == N_USERS

    def test_log_is_in_order_of_time(self, log: list[dict[str, str]]) -> None:
        times = [int(record["timestamp"]) for record in log]
        assert times == sorted(times)

    def test_domains_are_those_of_the_items(
        self, log: list[dict[str, str]], item_rows: list[dict[str, str]]
    ) -> None:
        domain_of = {row["item"]: row["domain"] for row in item_rows}
        assert all(domain_of[record["item"]] == record["domain"] for record in log)

    def test_lengths(self, histories: dict[str, History]) -> None:
        lengths = np.array([len(history) for history in histories.values()])
        assert lengths.min() == demo_world.MIN_LENGTH == 5
        assert lengths.max() == demo_world.MAX_LENGTH == 30
        assert 8 < lengths.mean() < 10

    def test_times_rise_and_nothing_is_bought_twice(self, histories: dict[str, History]) -> None:
        for history in histories.values():
            items, _, times = zip(*history, strict=True)
            assert len(set(items)) == len(items)
            assert np.all(np.diff(times) > 0)

    def test_kinds_of_users(self, histories: dict[str, History]) -> None:
        kinds = Counter(frozenset(domain for _, domain, _ in h) for h in histories.values())
        assert abs(kinds[frozenset(["groceries"])] / N_USERS - 0.46) < 0.03
        assert abs(kinds[frozenset(["kitchenware"])] / N_USERS - 0.46) < 0.03
        assert abs(kinds[frozenset(DOMAINS)] / N_USERS - 0.08) < 0.02

    def test_overlapped_users_have_some_of_each_domain(self, histories: dict[str, History]) -> None:
        for history in histories.values():
            counts = Counter(domain for _, domain, _ in history)
            assert len(counts) == 1 or min(counts.values()) >= demo_world.MIN_OVERLAP

    def test_every_item_survives_a_5_core(self, log: list[dict[str, str]]) -> None:
        counts = Counter(record["item"] for record in log)
        assert len(counts) == len(load_demo_items().items)
        assert min(counts.values()) >= 5

    def test_ingest_reads_it_and_drops_nothing(self, world: DemoWorld, tmp_path: Path) -> None:
        settings = IngestSettings(domains=DOMAINS, split="overlapped")
        result = ingest(world.interactions, tmp_path / "dataset", items=world.items, settings=settings)
        assert not result.warnings
        assert len(result.dataset.catalogue) == world.n_items
        summary = summarize(result.dataset.test, result.dataset.catalogue)
        assert summary.users_overlapped == summary.users > 10


class TestGenerator:
    def test_same_seed_same_bytes(self, tmp_path: Path) -> None:
        first, again, other = (
            write_demo_world(tmp_path / name, n_users=40, seed=seed)
            for name, seed in [("first", 3), ("again", 3), ("other", 4)]
        )
        assert first.interactions.read_bytes() == again.interactions.read_bytes()
        assert first.items.read_bytes() == again.items.read_bytes() == other.items.read_bytes()
        assert first.interactions.read_bytes() != other.interactions.read_bytes()

    def test_gzip_header_has_no_time(self, world: DemoWorld) -> None:
        assert world.interactions.read_bytes()[4:8] == bytes(4)

    def test_fewer_users_are_the_first_of_more(self) -> None:
        assert generate_users(n_users=20, seed=1) == generate_users(n_users=50, seed=1)[:20]

    def test_users_keep_to_their_interests(self) -> None:
        items = load_demo_items().items
        own = total = 0
        for user in generate_users(n_users=400):
            assert 1 <= len(set(user.interests)) == len(user.interests) <= 3
            total += len(user.items)
            own += sum(not items[n].interests.isdisjoint(user.interests) for n in user.items)
        assert 0.85 < own / total < 0.95  # the rest is noise

    @pytest.mark.parametrize(("n_users", "seed"), [(0, 0), (5, -1)])
    def test_arguments_that_cannot_be_meant(self, tmp_path: Path, n_users: int, seed: int) -> None:
        with pytest.raises(UsageError, match="expected at least 1 and at least 0"):
            write_demo_world(tmp_path / "x", n_users=n_users, seed=seed)
        assert not (tmp_path / "x").exists()


class TestPlantedStructure:
    """Plain counts over the files, with no look at how they were drawn."""

    def test_groceries_lead_to_kitchenware_of_their_interest(
        self, by_id: dict[str, DemoItem], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo_world, "KIND_SHARES", (0.0, 0.0, 1.0))  # as many as it takes to tell
        items = load_demo_items().items
        together: dict[str, Counter[str]] = defaultdict(Counter)
        for user in generate_users(n_users=1000):
            bought = [items[place] for place in user.items]
            kitchenware = [item.id for item in bought if item.domain == "kitchenware"]
            for item in bought:
                if item.domain == "groceries":
                    for interest in by_id[item.id].interests:
                        together[interest].update(kitchenware)
        assert len(together) == len(load_demo_items().interests)
        for interest, counts in together.items():
            top = [item for item, _ in counts.most_common(10)]
            of_interest = sum(interest in by_id[item].interests for item in top)
            assert of_interest >= 8, f"{interest}: {top}"

    def test_neighbours_in_other_users_histories_find_the_held_out_kitchenware(
        self, histories: dict[str, History]
    ) -> None:
        """Co-occurrence learned on some overlapped users ranks the kitchenware of others, from groceries."""
        overlapped = [h for h in histories.values() if len({domain for _, domain, _ in h}) == 2]
        catalogue = load_demo_items()
        first = catalogue.n_groceries
        position = {item.id: n for n, item in enumerate(catalogue.items)}
        split = len(overlapped) * 4 // 5
        counts = np.zeros((first, len(position) - first))  # (groceries, kitchenware)
        for history in overlapped[:split]:
            at = np.array([position[item] for item, _, _ in history])
            counts[np.ix_(at[at < first], at[at >= first] - first)] += 1
        # cosine-like: without it, popular kitchenware would win everywhere
        counts /= np.sqrt(1 + counts.sum(axis=0)) * np.sqrt(1 + counts.sum(axis=1, keepdims=True))
        hits = []
        for history in overlapped[split:]:
            at = np.array([position[item] for item, _, _ in history])
            target = at[at >= first][-1] - first
            scores = counts[at[at < first]].sum(axis=0)
            hits.append(np.count_nonzero(scores > scores[target]) < 10)
        chance = 10 / counts.shape[1]
        assert np.mean(hits) > 8 * chance

    def test_one_thing_leads_to_another(self, histories: dict[str, History]) -> None:
        """The most frequent successor of an item follows it far more often than chance has it."""
        follows: dict[str, Counter[str]] = defaultdict(Counter)
        for history in histories.values():
            items = [item for item, _, _ in history]
            for item, following in pairwise(items):
                follows[item][following] += 1
        frequent = [counts for counts in follows.values() if counts.total() >= 40]
        shares = [counts.most_common(1)[0][1] / counts.total() for counts in frequent]
        assert len(shares) > 50
        assert np.median(shares) > 0.1  # 830 items: chance is below 0.01

    def test_gear_comes_first(self, histories: dict[str, History]) -> None:
        firsts = [h[0][1] for h in histories.values() if len({domain for _, domain, _ in h}) == 2]
        assert firsts.count("kitchenware") / len(firsts) > 0.6

    def test_related_interests_come_together(self) -> None:
        users = generate_users(n_users=800)
        pairs = Counter(frozenset((u.interests[0], further)) for u in users for further in u.interests[1:])
        related = {frozenset((i.name, r)) for i in load_demo_items().interests for r in i.related}
        assert sum(n for pair, n in pairs.items() if pair in related) / pairs.total() > 0.6


class TestSampleHistories:
    def test_they_are_readable_cold_histories_of_the_world(self, by_id: dict[str, DemoItem]) -> None:
        samples = sample_histories()
        assert len(samples) >= 12
        assert len({sample.user for sample in samples}) == len(samples)
        for user, history, wanted in samples:
            assert wanted in DOMAINS
            assert 4 <= len(set(history)) == len(history) <= 6, user
            assert all(by_id[item].domain != wanted for item in history), user

    def test_each_is_mostly_of_one_interest(self, by_id: dict[str, DemoItem]) -> None:
        for user, history, _ in sample_histories():
            interests = Counter(interest for item in history for interest in by_id[item].interests)
            assert interests.most_common(1)[0][1] >= len(history) - 1, user

    def test_both_directions_are_shown(self) -> None:
        wanted = Counter(sample.domain for sample in sample_histories())
        assert min(wanted[domain] for domain in DOMAINS) >= 5


def test_the_sample_is_what_the_world_gives_and_its_forms_agree(tmp_path: Path) -> None:
    write_sample(tmp_path)
    shipped = Path(__file__).parents[3] / "examples" / "sample"
    for name in ("events.csv.gz", "items.csv"):
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes()
    data = [
        Dataset.from_interactions(shipped / name, items=shipped / "items.csv")
        for name in ("events.csv.gz", "events.parquet")
    ]
    assert content_hash(data[0]) == content_hash(data[1])
    assert data[0].test_positions == "every"
