"""Answers of language models, as they come, to names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_tools.generate.name_parsing import (
    MAX_CHARACTERS,
    MIN_NAMES,
    ParsedAnswer,
    clean_name,
    comparable,
    parse_answer,
)

THREE = ("Moka pot, 6 cups", "Sieve", "Tray 9.5 in")

ANSWERS = {
    "json list": '["Moka pot, 6 cups", "Sieve", "Tray 9.5 in"]',
    "json object": '{"names": ["Moka pot, 6 cups", "Sieve", "Tray 9.5 in"]}',
    "json of objects": '{"items": [{"name": "Moka pot, 6 cups"}, {"title": "Sieve"}, "Tray 9.5 in"]}',
    "json in json": '{"answer": {"n": 3, "names": ["Moka pot, 6 cups", "Sieve", "Tray 9.5 in"]}}',
    "json in a fence": 'Sure!\n```json\n["Moka pot, 6 cups",\n "Sieve", "Tray 9.5 in"]\n```\nEnjoy.',
    "json after prose": 'Here you are:\n ["Moka pot, 6 cups", "Sieve", "Tray 9.5 in"] [1]',
    "json cut off": '{"names": ["Moka pot, 6 cups", "Sieve", "Tray 9.5 in", "Coffee gri',
    "json of several lines": '[\n  "Moka pot, 6 cups",\n  "Sieve",\n  "Tray 9.5 in",\n]',  # a comma too many
    "numbered": "1. Moka pot, 6 cups\n2. Sieve\n3. Tray 9.5 in",
    "numbered, with prose": "Here are some:\n\n1) Moka pot, 6 cups\n\n2) Sieve\n3) Tray 9.5 in\n\nHave fun!",
    "numbered, in one line": "1. Moka pot, 6 cups 2. Sieve 3. Tray 9.5 in",
    "numbered, with remarks": (
        "1. **Moka pot, 6 cups**: goes with beans\n   - a remark\n2. **Sieve** - fine\n3. **Tray 9.5 in**"
    ),
    "numbered, no space": "1.Moka pot, 6 cups\n2.Sieve\n3.Tray 9.5 in",
    "numbered, then the next customer": "1. Moka pot, 6 cups\n2. Sieve\n3. Tray 9.5 in\n1. Other\n2. Another",
    "in brackets": "(1) Moka pot, 6 cups\n[2] Sieve\n(3) Tray 9.5 in",
    "bulleted": "- Moka pot, 6 cups\n* Sieve\n• Tray 9.5 in",
    "quoted": "1. \"Moka pot, 6 cups\"\n2. 'Sieve',\n3. “Tray 9.5 in”",
    "labelled": "1. Title: Moka pot, 6 cups\n2. **Product name:** Sieve\n3. name: 'Tray 9.5 in'",
    "after reasoning": "<think>1. No\n2. No</think>\n1. Moka pot, 6 cups\n2. Sieve\n3. Tray 9.5 in",
    "windows lines": "1. Moka pot, 6 cups\r\n2. Sieve\r\n3. Tray 9.5 in\r\n",
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS.keys())
def test_lists_of_all_kinds(text: str) -> None:
    assert parse_answer(text) == ParsedAnswer(THREE, None, 3)


def test_brackets_in_names_are_no_json() -> None:
    answer = parse_answer("1. [2-pack] Moka pot\n2. Sieve {fine}\n3. Tray [steel]")
    assert answer.names == ("[2-pack] Moka pot", "Sieve {fine}", "Tray [steel]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("I am sorry, I cannot help with that.", "no list"),
        ("{}", "no list"),
        ('{"names": "Moka pot"}', "no list"),
        ('{"names": [1, 2, 3, null]}', "no list"),
        ("<think>1. Moka pot\n2. Sieve\n3. Tray", "no list"),
        ("1. Moka pot\n2. Sieve", "too few names"),
        ("1. Moka pot\n2. Sieve\n3. moka  POT!", "too few names"),
        ("1. 12\n2. ...\n3. Sieve\n4. ---", "too few names"),
        ('["a", "b"', "too few names"),
    ],
)
def test_dropped_answers_have_a_reason(text: str, reason: str) -> None:
    answer = parse_answer(text)
    assert (answer.names, answer.dropped) == ((), reason)


def test_the_last_line_of_an_answer_that_was_cut_off_is_not_whole() -> None:
    text = "1. Moka pot\n2. Sieve\n3. Tray\n4. Coffee gri"
    assert parse_answer(text, cut_off=True).names == ("Moka pot", "Sieve", "Tray")
    assert parse_answer(text).names[-1] == "Coffee gri"
    whole = '["Moka pot", "Sieve", "Tray"]'  # JSON says itself what is whole
    assert parse_answer(whole, cut_off=True).names == ("Moka pot", "Sieve", "Tray")


def test_names_are_dropped_and_counted() -> None:
    answer = parse_answer(
        "1. Tea &amp; Co. green tea\n2. Pan\n3. Sieve\n4. pan\n5. Moka Pot 6 cup\n6. 42\n7. Moka pot\n"
        "8. Tray\n9. " + "x" * (MAX_CHARACTERS + 1),
        history=["Tea & Co Green Tea"],
        examples=["Moka pot 6 cup, steel", "Tray, round"],
    )
    # "Tray" is one word of an example, which is no copy of it; "Moka Pot 6 cup" is its start
    assert answer == ParsedAnswer(("Pan", "Sieve", "Moka pot", "Tray"), None, 9, 2, 1, 1, 1)


def test_more_names_than_asked_for_are_surplus() -> None:
    text = "1. a1\n2. b1\n3. B1\n4. c1\n5. d1\n6. a1\n7. e1"
    answer = parse_answer(text, most=4)
    assert answer == ParsedAnswer(("a1", "b1", "c1", "d1"), None, 7, n_duplicates=2, n_surplus=1)


def test_half_a_character_is_not_let_through() -> None:
    assert parse_answer(r'["half \ud83d", "a", "b", "c"]') == ParsedAnswer(("a", "b", "c"), None, 4, 1)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("  Moka   pot ", "Moka pot"),
        ('"Moka pot"', "Moka pot"),
        ('"Moka pot",', "Moka pot"),
        ("**Moka pot** (a classic)", "Moka pot"),
        ("'Title: \"Moka pot\"'", "Moka pot"),
        ("Moka pot:", "Moka pot"),
        ("Chef's pan", "Chef's pan"),
        ('12" pan', '12" pan'),
        ('Pan, 12"', 'Pan, 12"'),
        ("Item: of note", "of note"),
        ("Items of note", "Items of note"),
    ],
)
def test_clean_name(name: str, clean: str) -> None:
    assert clean_name(name) == clean


plain = st.from_regex(r"[A-Za-zäøé][A-Za-zäøé0-9' ]{0,30}[a-zäøé]", fullmatch=True)
lists = st.lists(plain, min_size=MIN_NAMES, max_size=12, unique_by=comparable).filter(
    lambda names: not any(clean_name(name) != name for name in names)
)


@given(lists, st.sampled_from(["json", "object", "numbered", "bulleted", "fence"]))
def test_every_list_is_read_back(names: list[str], form: str) -> None:
    lines = {
        "json": json.dumps(names),
        "object": json.dumps({"names": names}, ensure_ascii=False, indent=1),
        "numbered": "\n".join(f"{i}. {name}" for i, name in enumerate(names, 1)),
        "bulleted": "\n".join(f"- {name}" for name in names),
        "fence": f"Here:\n```json\n{json.dumps(names)}\n```",
    }
    assert parse_answer(lines[form]).names == tuple(names)


@given(lists, st.data())
def test_of_json_that_is_cut_off_the_whole_names_are_kept(names: list[str], data: st.DataObject) -> None:
    text = json.dumps({"names": names})
    end = data.draw(st.integers(0, len(text) - 1))
    closed = [name for name in names if text.find(json.dumps(name)) + len(json.dumps(name)) <= end]
    answer = parse_answer(text[:end])
    assert answer.names == (tuple(closed) if len(closed) >= MIN_NAMES else ())


@given(st.text(max_size=300) | st.text('[]{}"\\:,1.-* \nab`', max_size=120), st.booleans())
def test_any_text_gives_clean_names_or_a_reason(text: str, cut_off: bool) -> None:
    answer = parse_answer(text, history=["ab"], cut_off=cut_off)
    assert bool(answer.names) == (answer.dropped is None)
    assert not answer.names or len(answer.names) >= MIN_NAMES
    keys = [comparable(name) for name in answer.names]
    assert len(set(keys)) == len(keys)
    assert "ab" not in keys
    for name in answer.names:
        assert name == name.strip()
        name.encode()
        assert name.isprintable()
    lost = answer.n_unusable + answer.n_from_examples + answer.n_from_history + answer.n_duplicates
    assert answer.n_found >= len(answer.names) + lost
    if answer.names:
        assert answer.n_found == len(answer.names) + lost
