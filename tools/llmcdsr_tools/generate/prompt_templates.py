"""The words of prompts: the shipped ``prompts.toml``, and a file of a user's own in its place."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.generate.generate_settings import Endpoint

_COMMON = {"source", "target", "n_names"}
_EXAMPLE = _COMMON | {"number", "history", "names"}

# section -> field -> placeholders that it may have
_FIELDS: dict[str, dict[str, set[str]]] = {
    "chat": {
        "system": _COMMON,
        "user": _COMMON | {"examples", "history", "answer_format"},
        "example": _EXAMPLE,
    },
    "completion": {
        "prompt": _COMMON | {"examples", "history"},
        "example": _EXAMPLE,
        "answer_start": set(),
    },
    "answer_format": {"json": set(), "list": set()},
}


@dataclass(frozen=True)
class Words:
    """The templates for one endpoint and the domain of the names.

    Parameters
    ----------
    system : str or None
        None for the completion endpoint.
    body : str
        The user's message, or the text to go on with.
    example : str
    answer_start : str
        Ends the body; the answer goes on after it.
    """

    system: str | None
    body: str
    example: str
    answer_start: str


@dataclass(frozen=True)
class PromptTemplates:
    """All templates.

    Parameters
    ----------
    words : dict
        By endpoint and the name of the domain that names are wanted of, None for all others.
    answer_format : dict
        By output format.
    stop : tuple of str
        What ends a completion.
    fingerprint : str
        Hash of all words: other words are another run.
    """

    words: dict[tuple[Endpoint, str | None], Words]
    answer_format: dict[str, str]
    stop: tuple[str, ...]
    fingerprint: str

    @property
    def domains(self) -> set[str]:
        """Names of the domains with words of their own."""
        return {domain for _, domain in self.words if domain is not None}

    def of(self, endpoint: Endpoint, domain: str) -> Words:
        """Templates for names of a domain."""
        return self.words.get((endpoint, domain), self.words[endpoint, None])


def shipped_templates() -> str:
    """Text of the shipped ``prompts.toml``, to start a file of one's own from."""
    return files("llmcdsr_tools.generate").joinpath("prompts.toml").read_text(encoding="utf-8")


def load_templates(path: Path | None = None) -> PromptTemplates:
    """Read the shipped templates, with what a user's file has in their place.

    Raises
    ------
    DataError
        If the file cannot be read, or has a section, field or placeholder that means nothing.
    """
    shipped = tomllib.loads(shipped_templates())
    own = {} if path is None else _read(path)
    merged: dict[str, dict[str, Any]] = {}
    for section in _FIELDS:
        merged[section] = {**shipped[section], **own.get(section, {})}
    words: dict[tuple[Endpoint, str | None], Words] = {}
    bodies: tuple[tuple[Endpoint, str], ...] = (("chat", "user"), ("completion", "prompt"))
    for endpoint, body in bodies:
        own_words = {name: value for name, value in merged[endpoint].items() if isinstance(value, dict)}
        every: list[tuple[str | None, dict[str, str]]] = [(None, {}), *own_words.items()]
        for domain, changed in every:
            fields = {**merged[endpoint], **changed}
            words[endpoint, domain] = Words(
                fields["system"].strip() if "system" in fields else None,
                fields[body].lstrip("\n"),
                fields["example"].lstrip("\n"),
                fields.get("answer_start", ""),
            )
    digest = hashlib.sha256(json.dumps(merged, sort_keys=True).encode()).hexdigest()
    stop = tuple(merged["completion"]["stop"])
    return PromptTemplates(words, merged["answer_format"], stop, digest)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML and of UTF-8
        raise DataError(f"{path}: not valid TOML: {error}") from None
    for section, values in content.items():
        if section not in _FIELDS or not isinstance(values, dict):
            raise DataError(f"{path}: section [{section}] means nothing; there are {', '.join(_FIELDS)}")
        for field, value in values.items():
            if section == "completion" and field == "stop":
                if not isinstance(value, list) or not all(isinstance(s, str) and s for s in value):
                    raise DataError(f"{path}: [completion] stop must be a list of strings, none empty")
            elif section != "answer_format" and isinstance(value, dict):  # of one domain
                for name, words in value.items():
                    _check(f"{path}: [{section}.{field}]", section, name, words)
            else:
                _check(f"{path}: [{section}]", section, field, value)
    return content


def _check(where: str, section: str, field: str, value: Any) -> None:
    """Refuse an unknown field or placeholder now, not after a thousand requests."""
    known = _FIELDS[section]
    if field not in known:
        raise DataError(f"{where}: field {field!r} means nothing; there are {', '.join(known)}")
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be a string, found {type(value).__name__}")
    template = Template(value)
    if not template.is_valid():
        raise DataError(f"{where}: field {field!r} has a $ without a name behind it; write $$ for the sign")
    unknown = set(template.get_identifiers()) - known[field]
    if unknown:
        raise DataError(
            f"{where}: field {field!r} has ${min(unknown)}, which is not there; "
            f"it may have {', '.join('$' + name for name in sorted(known[field])) or 'none'}"
        )
