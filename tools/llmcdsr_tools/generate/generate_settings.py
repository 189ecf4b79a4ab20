"""Settings of the stage `generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmcdsr_tools.setting_fields import Bounds, Count, Flag, Natural, NonNegative, Positive, check_settings

Endpoint = Literal["chat", "completion"]
OutputFormat = Literal["json", "list"]
OutputFormatChoice = Literal["auto", "json", "list"]


@dataclass(frozen=True)
class ServerSettings:
    """Where the model is and how it is asked.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000/v1``; nothing is sent anywhere else.
    model : str
        Name of the model at the server.
    endpoint : {"chat", "completion"}
        completion is for base models, which only continue a text.
    api_key_env : str, optional
        Environment variable that holds the key; no key is sent if not given.
    temperature : float
        Of sampling.
    frequency_penalty : float
        Against models that repeat themselves; 0 leaves it to the server.
    max_tokens : int
        Of an answer.
    timeout : float
        Seconds for one request.
    retries : int
        Of a failed request.
    backoff : float
        Seconds before the second try, twice as long before each one after it.
    """

    base_url: str
    model: str
    endpoint: Endpoint = "chat"
    api_key_env: str | None = None
    temperature: NonNegative = 0.7
    frequency_penalty: Annotated[float, Bounds(-2, 2)] = 0.0
    max_tokens: Count = 500
    timeout: Positive = 120.0
    retries: Natural = 6
    backoff: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class PromptSettings:
    """What a prompt is made of.

    Parameters
    ----------
    n_examples : int
        Users of several domains shown as examples.
    n_names : int
        Names asked for, and at most so many shown in an example. Half as many at least, if users have them.
    n_titles : int
        Titles of a history that are shown, at most: the newest.
    title_tokens : int
        Of a title, at most.
    prompt_tokens : int
        Of the whole prompt, at most. First fewer titles are shown, then shorter ones, then fewer names in the
        examples.
    seed : int
        Of the examples and the order of users.
    """

    n_examples: Natural = 3
    n_names: Annotated[int, Bounds(3)] = 10
    n_titles: Annotated[int, Bounds(1), Flag("--history-titles")] = 10
    title_tokens: Count = 24
    prompt_tokens: Count = 2000
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class GenerateSettings:
    """How the users are asked.

    Parameters
    ----------
    prompt : PromptSettings
    output_format : {"auto", "json", "list"}
        auto: JSON by a schema on a chat endpoint whose server takes one, otherwise a numbered list.
    concurrency : int
        Requests at a time.
    """

    prompt: PromptSettings = field(default_factory=PromptSettings)
    output_format: OutputFormatChoice = "auto"
    concurrency: Count = 4

    def __post_init__(self) -> None:
        check_settings(self)
