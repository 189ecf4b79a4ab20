"""Prompts: the right titles in the right places, within their budget, and the same for the same user."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.cold_histories import ColdHistory, cold_histories
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.generate.generate_settings import PromptSettings
from llmcdsr_tools.generate.prompt_templates import load_templates, shipped_templates
from llmcdsr_tools.generate.prompts import (
    Prompt,
    PromptBuilder,
    bulleted,
    estimate_tokens,
    shorten,
    user_seed,
)

N_A, N_B = 20, 30
NOTHING = np.empty(0, dtype=np.int32)


def make_dataset(histories: list[list[int]]) -> Dataset:
    titles = [f"Snack No. {n} &amp; dip" for n in range(1, N_A + 1)]
    titles += [f"Pan {n}  of $teel {{x}}" for n in range(1, N_B + 1)]
    titles[4] = " "
    ids = [f"i{n}" for n in range(N_A + N_B)]
    catalogue = Catalogue.from_sizes(ids, titles, ("food", "kitchen"), (N_A, N_B))
    train = Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])
    return Dataset(catalogue, train, train, train)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(2)
    histories = [[1, 2, 2, 3, 5, 1], [21, 22, 23]]
    for _ in range(30):
        history = [*rng.choice(np.arange(6, N_A + 1), 5, False), *rng.choice(np.arange(25, 50), 7, False)]
        histories.append([int(row) for row in rng.permutation(history)])
    return make_dataset(histories)


def build(
    dataset: Dataset, user: int, endpoint: Any = "completion", form: Any = "list", **settings: int
) -> Prompt:
    builder = PromptBuilder(dataset, load_templates(), PromptSettings(**settings), endpoint)
    return builder.build(cold_histories(dataset, "train")[user], form)


def test_letters_for_names_are_refused(dataset: Dataset) -> None:
    names = [
        replace(domain, name=letter) for domain, letter in zip(dataset.catalogue.domains, "AB", strict=True)
    ]
    unnamed = replace(dataset, catalogue=replace(dataset.catalogue, domains=(names[0], names[1])))
    with pytest.raises(UsageError, match=r"the domains are named 'A' and 'B'.*ingest .* with their names"):
        build(unnamed, 0)


def test_own_titles_each_once_the_last_time_oldest_first(dataset: Dataset) -> None:
    prompt = build(dataset, 0)
    assert prompt.history == ("Snack No. 2 & dip", "Snack No. 3 & dip", "Snack No. 1 & dip")  # 5 has none
    assert prompt.system is None
    own = "food:\n- Snack No. 2 & dip\n- Snack No. 3 & dip\n- Snack No. 1 & dip\nkitchen:\n1."
    assert prompt.text.endswith(own)
    assert build(dataset, 0, n_titles=2).history == prompt.history[1:]  # the newest


def test_half_a_character_is_not_sent() -> None:
    data = make_dataset([[1]])
    catalogue = Catalogue.from_sizes(
        data.catalogue.ids, ["half \ud83d", *data.catalogue.titles[1:]], ("food", "kitchen"), (N_A, N_B)
    )
    broken = Dataset(catalogue, data.train, data.valid, data.test)
    assert build(broken, 0, n_examples=0).history == ("half ?",)


@pytest.mark.parametrize("user", [0, 1])
def test_examples_are_whole_histories_of_overlapped_users(dataset: Dataset, user: int) -> None:
    prompt = build(dataset, user, "chat", "json", n_names=6)
    source, target = ("food", "kitchen") if user == 0 else ("kitchen", "food")
    answers = [json.loads(line)["names"] for line in prompt.text.splitlines() if line.startswith('{"names"')]
    assert len(answers) == 3
    blocks = prompt.text.split(f" bought these {source} products:\n")[1:4]
    known = set()
    for block, names in zip(blocks, answers, strict=True):
        given = [line[2:] for line in block.split('{"names"')[0].splitlines() if line.startswith("- ")]
        for n, rows in enumerate(list(dataset.train)[2:]):
            titles = [
                " ".join(dataset.catalogue.titles[row - 1].replace("&amp;", "&").split()) for row in rows
            ]
            a = [t for t in titles if t.startswith("Snack")]
            b = [t for t in titles if t.startswith("Pan")]
            if (given, names) == ((a, b[-6:]) if user == 0 else (b, a[-6:])):
                known.add(n)
    assert len(known) == 3  # three different users
    shown = {line[2:] for line in prompt.text.splitlines() if line.startswith("- ")}
    assert {*prompt.history, *prompt.examples} == shown | {name for names in answers for name in names}
    assert f"names of 6 {target} products" in prompt.text
    assert prompt.text.endswith('Its one field, "names", is a list of strings.')
    assert prompt.system.startswith("You know what people buy")


def test_a_prompt_depends_on_the_user_and_the_seed_alone(dataset: Dataset) -> None:
    one = build(dataset, 0)
    assert one == build(dataset, 0)
    assert one.examples != build(dataset, 0, seed=1).examples
    longer = make_dataset([h.tolist() for h in dataset.train])
    more = ColdHistory("u0", 1, longer.train[0], NOTHING)
    assert PromptBuilder(longer, load_templates(), PromptSettings(), "completion").build(more) == one
    seeds = {user_seed(s, ColdHistory(u, d, NOTHING, NOTHING)) for s in (0, 1) for u in "ab" for d in (0, 1)}
    assert len(seeds) == 8


def test_nobody_is_an_example_for_oneself() -> None:
    histories = [[1, 2, 3, 31, 32, 33], [4, 6, 7, 34, 35, 36], [8, 9, 10, 37, 38, 39]]
    data = make_dataset(histories)
    builder = PromptBuilder(data, load_templates(), PromptSettings(n_examples=2), "completion")
    hidden = ColdHistory("u1", 1, data.train[1][:3], data.train[1][3:])
    prompt = builder.build(hidden)
    assert len(prompt.examples) == 12
    assert not any("Pan 14" in title for title in prompt.examples)  # row 34
    with pytest.raises(UsageError, match=r"3 examples need 4 overlapped train users .*; there are 3"):
        PromptBuilder(data, load_templates(), PromptSettings(n_examples=3), "completion")
    none = PromptBuilder(make_dataset([[1]]), load_templates(), PromptSettings(n_examples=0), "chat")
    assert none.build(ColdHistory("u0", 1, data.train[0][:1], NOTHING)).examples == ()


def test_a_prompt_keeps_its_budget(dataset: Dataset) -> None:
    full = build(dataset, 1)
    for budget in range(full.n_tokens, 265, -25):
        prompt = build(dataset, 1, prompt_tokens=budget)
        assert estimate_tokens(prompt.text) == prompt.n_tokens <= budget
        assert len(prompt.history) >= min(3, len(full.history))
    with pytest.raises(UsageError, match=r"prompt_tokens is 50, but the prompt for user 'u1' has \d+"):
        build(dataset, 1, prompt_tokens=50)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("pan", 1), ("saucepan", 2), ("a pan", 2), ("12 oz.", 4), ("鍋", 1), ("a\nb", 3)],
)
def test_estimate_tokens(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(st.text(max_size=120), st.integers(1, 30))
def test_shortened_titles_are_their_beginning(title: str, tokens: int) -> None:
    short = shorten(title, tokens)
    assert estimate_tokens(short) <= tokens
    assert " ".join(title.split()).startswith(short)
    if estimate_tokens(" ".join(title.split())) <= tokens:
        assert short == " ".join(title.split())


def test_titles_are_cut_between_words() -> None:
    assert shorten("Moka pot, (stainless steel), 6 cups", 4) == "Moka pot"
    assert shorten("x" * 100, 3)[:3] == "xxx"
    assert bulleted(["a", "b"]) == "- a\n- b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_names": 2}, "n_names must be at least 3, found 2"),
        ({"n_examples": -1}, "n_examples"),
        ({"n_titles": 0}, "n_titles"),
    ],
)
def test_settings_that_cannot_be_meant(dataset: Dataset, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(dataset, 0, **settings)


def test_own_words_for_one_domain(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[chat.kitchen]\nuser = "$history -> $target, costs $$5"\n[chat]\nsystem = "Hi $source"\n'
    )
    templates = load_templates(path)
    assert templates.fingerprint != load_templates().fingerprint
    builder = PromptBuilder(dataset, templates, PromptSettings(), "chat")
    to_b, to_a = (builder.build(h, "json") for h in cold_histories(dataset, "train"))
    assert to_b.text == bulleted(to_b.history) + " -> kitchen, costs $5"
    assert (to_b.system, to_a.system) == ("Hi food", "Hi kitchen")
    assert to_a.text == build(dataset, 1, "chat", "json").text
    path.write_text("[chat.garden]\nuser = 'x'")
    with pytest.raises(
        UsageError, match="words for 'garden', which is no domain; there are 'food', 'kitchen'"
    ):
        PromptBuilder(dataset, load_templates(path), PromptSettings(), "chat")


def of_three(data: Dataset) -> Dataset:
    """The same items, the second domain parted in two: kitchen has Pan 1 to 15, garden the others."""
    names, sizes = ("food", "kitchen", "garden"), (N_A, 15, N_B - 15)
    catalogue = data.catalogue
    return replace(data, catalogue=Catalogue.from_sizes(catalogue.ids, catalogue.titles, names, sizes))


def test_of_three_domains_all_others_are_the_source() -> None:
    # 1..20 are of food, 21..35 of kitchen, 36..50 of garden
    given = [[36, 21, 2, 37, 22, 1, 38, 23, 3], [39, 6, 7, 24, 8, 25, 40, 26, 41]]
    data = of_three(make_dataset([[22, 1, 23], [50], *given]))
    histories = cold_histories(data, "train")
    assert [(h.user, h.domain) for h in histories] == [("u0", 2), ("u1", 0), ("u1", 1)]
    builder = PromptBuilder(data, load_templates(), PromptSettings(n_examples=1), "completion")
    prompts = [builder.build(history) for history in histories]
    for prompt, source, target in zip(
        prompts,
        ("food and kitchen", "kitchen and garden", "food and garden"),
        ("garden", "food", "kitchen"),
        strict=True,
    ):
        opening = f"first their {source} products, then their {target} products."
        assert prompt.text.startswith(f"What customers of a shop bought: {opening}")
        own = "".join(f"- {title}\n" for title in prompt.history)
        assert prompt.text.endswith(f"=== Customer ===\n{source}:\n{own}{target}:\n1.")
    assert prompts[0].history == ("Pan 2 of $teel {x}", "Snack No. 1 & dip", "Pan 3 of $teel {x}")
    titles = [" ".join(title.replace("&amp;", "&").split()) for title in data.catalogue.titles]
    for prompt, wanted in zip(prompts, (range(36, 51), range(1, 21), range(21, 36)), strict=True):
        examples = [
            (*(titles[r - 1] for r in h if r not in wanted), *(titles[r - 1] for r in h if r in wanted))
            for h in given
        ]
        assert prompt.examples in examples
    assert builder.others(1) == [0, 2]
    rows = np.array([36, 21, 2, 22])
    assert builder.titles(rows, [0, 1]) == [data.catalogue.titles[r - 1] for r in (21, 2, 22)]


def test_words_of_their_own_for_two_of_three_domains(tmp_path: Path) -> None:
    data = of_three(make_dataset([[1], [50]]))
    path = tmp_path / "mine.toml"
    path.write_text('[chat.garden]\nuser = "$source -> $target"\n[chat.kitchen]\nuser = "k"\n')
    templates, settings = load_templates(path), PromptSettings(n_examples=0)
    builder = PromptBuilder(data, templates, settings, "chat")
    texts = [builder.build(history).text for history in cold_histories(data, "train")]
    plain = PromptBuilder(data, load_templates(), settings, "chat")
    food = plain.build(cold_histories(data, "train")[2]).text
    assert texts == ["k", "food and kitchen -> garden", food, "k"]
    assert builder.words(0) == plain.words(0)


def test_where_there_is_one_domain_there_is_nothing_to_ask_for() -> None:
    data = make_dataset([[1, 2]])
    one = Catalogue.from_sizes(data.catalogue.ids, data.catalogue.titles, ("all",), (N_A + N_B,))
    with pytest.raises(UsageError, match="the data set has one domain alone"):
        PromptBuilder(replace(data, catalogue=one), load_templates(), PromptSettings(n_examples=0), "chat")


def test_the_shipped_file_may_be_a_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(shipped_templates(), encoding="utf-8")
    assert load_templates(path) == load_templates()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[chat", "not valid TOML"),
        ("[talk]\nuser = 'x'", r"section \[talk\] means nothing; there are chat, completion"),
        ("chat = 3", r"section \[chat\] means nothing"),
        ("[chat]\nbody = 'x'", "field 'body' means nothing; there are system, user, example"),
        ("[chat]\nuser = 3", "field 'user' must be a string, found int"),
        (
            "[chat]\nuser = '$titles'",
            r"field 'user' has \$titles, which is not there; it may have \$answer_format",
        ),
        ("[chat]\nuser = '5 $'", "has a \\$ without a name behind it"),
        ("[chat.food]\nuser = '$titles'", r"\[chat\.food\]: field 'user' has \$titles"),
        ("[chat.food]\nusers = 'x'", "field 'users' means nothing"),
        ("[answer_format.food]\njson = 'x'", "field 'food' means nothing"),
        ("[completion]\nstop = ['']", r"\[completion\] stop must be a list of strings"),
        ("[answer_format]\njson = '$names'", "has \\$names, which is not there; it may have none"),
    ],
)
def test_words_that_mean_nothing_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"mine\.toml: .*{message}"):
        load_templates(path)
    with pytest.raises(DataError, match=r"none\.toml: cannot be read"):
        load_templates(tmp_path / "none.toml")
