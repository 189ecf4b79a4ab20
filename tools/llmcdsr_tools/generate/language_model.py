"""One request to a server that speaks the OpenAI protocol, repeated where that may help.

What is worth another try: too many requests (429), a fault of the server (408, 409, 5xx), a timeout, a
connection that is refused or reset, and a reply that is not what the protocol says. Wrong credentials
(401, 403) and a model or address that is not there (404) end everything at once.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmcdsr_lite.errors import GenerationError, MissingDependencyError, UsageError, install_hint
from llmcdsr_tools.generate.generate_settings import OutputFormat, ServerSettings
from llmcdsr_tools.generate.prompts import Prompt

_MAX_WAIT = 60.0  # seconds between two tries, whatever a server asks for
_REPEATED = (408, 409, 425, 429)
_FATAL = (401, 403, 404)
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "names",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"names": {"type": "array", "items": {"type": "string"}}},
            "required": ["names"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Reply:
    """What a server answered; see `answers.Answer`."""

    text: str
    cut_off: bool
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


class RequestFailedError(GenerationError):
    """One request was refused, or failed at every try; others may fare better."""


class FormatRefusedError(RequestFailedError):
    """The server does not take the JSON schema."""


class LanguageModel(Protocol):
    """What answers prompts."""

    def ask(self, prompt: Prompt, output_format: OutputFormat, seed: int) -> Reply:
        """Answer one prompt; may be called by several threads."""


class OpenAIModel:
    """A model behind a server.

    Parameters
    ----------
    settings : ServerSettings
    stop : sequence of str
        What ends a completion.
    stopped : threading.Event
        When set, no request is tried again.

    Raises
    ------
    MissingDependencyError
        If the package openai is not installed.
    UsageError
        If the environment variable of the key is not set, or the address is not one.
    """

    def __init__(self, settings: ServerSettings, stop: Sequence[str], stopped: threading.Event) -> None:
        self.settings = settings
        self.retried: Counter[str] = Counter()  # by what went wrong
        self._stop, self._stopped = list(stop), stopped
        self._client = _make_client(settings)
        self._jitter = random.Random()

    def ask(self, prompt: Prompt, output_format: OutputFormat, seed: int) -> Reply:
        """Answer one prompt.

        Raises
        ------
        GenerationError
            If the server refuses the credentials, or has no such model: nothing will be answered.
        FormatRefusedError
            If it does not take the JSON schema.
        RequestFailedError
            If this request is refused, or fails at every try.
        """
        request = self._request(prompt, output_format, seed)
        for attempt in range(self.settings.retries + 1):
            start = time.perf_counter()
            try:
                return _read_reply(request(), time.perf_counter() - start)
            except Exception as error:  # sorted, or raised again, there
                problem = self._sort(error, output_format)
            if attempt == self.settings.retries or self._stopped.is_set():
                break
            self.retried[problem.name] += 1
            self._stopped.wait(self._wait(attempt, problem.retry_after))
        raise RequestFailedError(f"{problem.message} ({attempt + 1} tries)")

    def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._client.close()

    def _request(self, prompt: Prompt, output_format: OutputFormat, seed: int) -> Callable[[], Any]:
        common: dict[str, Any] = {
            "model": self.settings.model,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": seed,
        }
        if self.settings.frequency_penalty:
            common["frequency_penalty"] = self.settings.frequency_penalty
        if prompt.system is None:
            return lambda: self._client.completions.create(prompt=prompt.text, stop=self._stop, **common)
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.text}]
        if output_format == "json":
            common["response_format"] = _SCHEMA
        return lambda: self._client.chat.completions.create(messages=messages, **common)

    def _sort(self, error: Exception, output_format: OutputFormat) -> _Problem:
        """What went wrong, if it is worth another try; raises otherwise."""
        import openai

        where = self.settings.base_url
        if isinstance(error, openai.APIStatusError):
            status, text = error.status_code, _told(error)
            if status in _FATAL:
                reason = {404: "has no such model or address"}.get(status, "refuses the credentials")
                raise GenerationError(f"{where} {reason} (status {status}): {text}") from None
            if status in _REPEATED or status >= 500:
                return _Problem(f"status {status}", f"status {status}: {text}", _retry_after(error))
            kind = FormatRefusedError if output_format == "json" else RequestFailedError
            raise kind(f"{where} refuses the request (status {status}): {text}") from None
        if isinstance(error, openai.APITimeoutError):
            return _Problem("timeout", f"no answer within {self.settings.timeout:g} seconds")
        if isinstance(error, openai.APIConnectionError):
            return _Problem("connection", f"{where}: {error} ({error.__cause__})")
        if isinstance(error, openai.APIError | _MalformedError | json.JSONDecodeError):
            return _Problem("malformed reply", f"the reply is not what the protocol says: {error}")
        raise error

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        longer = self.settings.backoff * 2.0**attempt * self._jitter.uniform(0.75, 1.25)
        return min(_MAX_WAIT, max(longer, retry_after or 0))


@dataclass(frozen=True)
class _Problem:
    """Why a request is tried again."""

    name: str
    message: str
    retry_after: float | None = None


class _MalformedError(Exception):
    """A reply lacks what the protocol says."""


def _make_client(settings: ServerSettings) -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingDependencyError(
            f"asking a language model needs openai ({error}): {install_hint('generate')}"
        ) from None
    if not settings.base_url.startswith(("http://", "https://")):
        raise UsageError(f"base_url is {settings.base_url!r}, expected http://... or https://...")
    key = "none"  # the client wants one; servers that need none do not look at it
    if settings.api_key_env is not None:
        key = os.environ.get(settings.api_key_env, "").strip()
        if not key:
            raise UsageError(f"the environment variable {settings.api_key_env} is not set")
    return openai.OpenAI(base_url=settings.base_url, api_key=key, timeout=settings.timeout, max_retries=0)


def _read_reply(response: Any, seconds: float) -> Reply:
    """Text of a chat or text completion; the client does not check what it parses."""
    try:
        choice = response.choices[0]
        message = getattr(choice, "message", None)
        text = choice.text if message is None else _text(message.content)
        cut_off = choice.finish_reason == "length"
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise _MalformedError(f"{error} in {response!r:.200}") from None
    if not isinstance(text, str):
        raise _MalformedError(f"the text is {text!r:.200}")
    usage = getattr(response, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = (count if isinstance(count, int) else None for count in counts)
    return Reply(text, cut_off, tokens_in, tokens_out, round(seconds, 3))


def _text(content: Any) -> Any:
    """The text of a message; some servers send it in parts (``[{"type": "text", "text": ...}]``)."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _told(error: Any) -> str:
    """What the server says of it, in one short line."""
    return " ".join(str(error.message).split())[:300]


def _retry_after(error: Any) -> float | None:
    try:
        return float(error.response.headers["retry-after"])
    except (KeyError, ValueError):  # none, or a date
        return None
