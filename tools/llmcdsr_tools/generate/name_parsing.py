"""From the text that a language model answered with to a list of names.

Accepted are JSON (a list, or an object with a list in it; also when it is cut off), numbered and bulleted
lists. Names are stripped of quotes, markers and boilerplate. Dropped are names that were copied from the
prompt's examples or the user's own history, duplicates, and what is beyond the number asked for; an answer
with two names or fewer is dropped.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

MIN_NAMES = 3
MAX_CHARACTERS = 300  # longer than any title: prose

DropReason = Literal["empty", "no list", "too few names"]

_JSON_START = re.compile(r"^[^\S\n]*[\[{]", re.MULTILINE)
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(:)?')
_NUMBERED = re.compile(r"\s*(?:\*\*)?[(\[]?(\d{1,3})[.)\]:](?:\*\*)?(?:\s+|(?=[^\s\d]))(.*)")
_BULLETED = re.compile(r"\s*[-*+•‣●\u2013\u2014]\s+(.*)")
_INLINE_NUMBER = re.compile(r"(?:(?<=\s)|^)(\d{1,3})[.)]\s+")
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_LABEL = re.compile(r"(?:(?:product|item)(?: name| title)?|name|title)\s*:\s*", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»", "\u201e": "\u201c"}
_NAME_KEYS = ("name", "title", "product", "item")


@dataclass(frozen=True)
class ParsedAnswer:
    """What is left of an answer, and what was dropped.

    Parameters
    ----------
    names : tuple of str
        At least `MIN_NAMES`, or none if the answer is dropped.
    dropped : {"empty", "no list", "too few names"} or None
        Why the whole answer is dropped, if it is.
    n_found : int
        Names before any was dropped.
    n_unusable : int
        Without a letter, not valid Unicode, or longer than a title could be.
    n_from_examples, n_from_history, n_duplicates, n_surplus : int
    """

    names: tuple[str, ...]
    dropped: DropReason | None
    n_found: int = 0
    n_unusable: int = 0
    n_from_examples: int = 0
    n_from_history: int = 0
    n_duplicates: int = 0
    n_surplus: int = 0


def parse_answer(
    text: str,
    *,
    history: Iterable[str] = (),
    examples: Iterable[str] = (),
    cut_off: bool = False,
    most: int | None = None,
) -> ParsedAnswer:
    """Names of an answer.

    Parameters
    ----------
    text : str
        What the model wrote.
    history : iterable of str
        The user's own titles, whole or as the prompt shows them.
    examples : iterable of str
        Titles of the prompt's examples.
    cut_off : bool
        Whether the answer ended because it became too long: the last name is then not a whole one.
    most : int, optional
        Names asked for: those beyond are surplus.

    Returns
    -------
    ParsedAnswer
    """
    if not text.strip():
        return ParsedAnswer((), "empty")
    found = extract_names(text, cut_off)
    if not found:
        return ParsedAnswer((), "no list")
    of_history, of_examples = ({comparable(title) for title in titles} for titles in (history, examples))
    names: dict[str, str] = {}
    n_unusable = n_from_examples = n_from_history = n_duplicates = n_surplus = 0
    for name in map(clean_name, found):
        key = comparable(name)
        if not _usable(name):
            n_unusable += 1
        elif _copied(key, of_history):
            n_from_history += 1
        elif _copied(key, of_examples):
            n_from_examples += 1
        elif key in names:
            n_duplicates += 1
        elif most is not None and len(names) >= most:
            n_surplus += 1
        else:
            names[key] = name
    too_few = len(names) < MIN_NAMES
    return ParsedAnswer(
        () if too_few else tuple(names.values()),
        "too few names" if too_few else None,
        len(found),
        n_unusable,
        n_from_examples,
        n_from_history,
        n_duplicates,
        n_surplus,
    )


def extract_names(text: str, cut_off: bool = False) -> list[str]:
    """The entries of the first list in a text, as they stand."""
    text = _FENCE.sub("", _REASONING.sub("", text))
    start = _JSON_START.search(text)
    if start is not None:
        names = _from_json(text[start.start() :].lstrip())
        if names:
            return names
    names = _from_lines(text)
    return names[:-1] if cut_off else names


def clean_name(name: str) -> str:
    """A name without the quotes, markers, labels and remarks around it, white space made single."""
    name = " ".join(name.split())
    bold = _BOLD.match(name)
    if bold:  # a label in bold, or a name: what follows is then a remark on it
        name = bold[1] + name[bold.end() :] if bold[1].endswith(":") else bold[1]
    before = None
    while name != before:
        before = name
        name = name.strip(" *_,;").removesuffix(":")
        label = _LABEL.match(name)
        if label:
            name = name[label.end() :]
        if len(name) > 1 and _QUOTES.get(name[0]) == name[-1]:
            name = name[1:-1]
    return name


def comparable(name: str) -> str:
    """The words of a name: what two spellings of one title have in common."""
    text = unicodedata.normalize("NFKC", html.unescape(name)).casefold()
    return " ".join(re.findall(r"\w+", text))


def _from_json(text: str) -> list[str]:
    """Names of a text that begins with JSON, whole or cut off."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        # the strings that are whole, but for those that are a key
        return [_unescape(found[1]) for found in _JSON_STRING.finditer(text) if not found[2]]
    return _strings(value)


def _strings(value: Any) -> list[str]:
    """Names in a JSON list of strings or of objects, or in the first such list of an object."""
    if isinstance(value, dict):
        return next(filter(None, (_strings(v) for v in value.values() if isinstance(v, list | dict))), [])
    if not isinstance(value, list):
        return []
    names = []
    for entry in value:
        if isinstance(entry, dict):
            entry = next((entry[key] for key in _NAME_KEYS if key in entry), None)
        if isinstance(entry, str):
            names.append(entry)
    return names


def _unescape(content: str) -> str:
    try:
        return str(json.loads(f'"{content}"', strict=False))
    except ValueError:  # an escape that JSON does not know
        return content


def _from_lines(text: str) -> list[str]:
    """Names of a numbered or bulleted list; it ends where the numbers begin anew."""
    names: list[str] = []
    numbers: list[int] = []
    for line in text.splitlines():
        numbered, bulleted = _NUMBERED.match(line), _BULLETED.match(line)
        if numbered:
            number = int(numbered[1])
            if numbers and number <= numbers[-1]:
                break
            numbers.append(number)
            names.append(numbered[2])
        elif bulleted and not numbers:  # below a number, they are remarks
            names.append(bulleted[1])
    if len(names) == 1:  # all in one line, perhaps
        names = _from_one_line(text) or names
    return names


def _from_one_line(text: str) -> list[str]:
    """Names of ``1. Moka pot 2. Sieve 3. Tray``: the numbers must count from 1."""
    kept: list[re.Match[str]] = []
    for mark in _INLINE_NUMBER.finditer(text):
        if int(mark[1]) == len(kept) + 1:
            kept.append(mark)
    stops = [*(mark.start() for mark in kept[1:]), len(text)]
    return [text[mark.end() : stop] for mark, stop in zip(kept, stops, strict=False)]  # no mark: one stop


def _usable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return len(name) <= MAX_CHARACTERS and any(c.isalpha() for c in name) and name.isprintable()


def _copied(key: str, titles: set[str]) -> bool:
    """Whether a name is one of the titles, or the start of one, three words long or longer."""
    if key in titles:
        return True
    return key.count(" ") >= 2 and any(title.startswith(key + " ") for title in titles)
