"""Stage: a language model writes, for users without an item of a domain, names of items of it.

Every answer is appended to the answers file (`llmcdsr_tools.generate.answers`) as soon as it is there; a
call that was interrupted, however, goes on with the users that have none. When all are there, they are
parsed into the names file (`llmcdsr_tools.names`); what is dropped on the way is counted by reason.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.cold_histories import Whom, cold_histories
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.generate.answers import open_answers
from llmcdsr_tools.generate.asking import Asking, Failure, Wanted
from llmcdsr_tools.generate.generate_settings import GenerateSettings, ServerSettings
from llmcdsr_tools.generate.language_model import LanguageModel, OpenAIModel
from llmcdsr_tools.generate.outcome import GenerationYield, write_parsed
from llmcdsr_tools.generate.prompt_templates import PromptTemplates, load_templates
from llmcdsr_tools.generate.prompts import PromptBuilder


@dataclass(frozen=True)
class GenerateResult:
    """What `generate` did.

    Parameters
    ----------
    output, answers : Path
        The names file and the answers file.
    n_wanted : int
        Users and domains that names were wanted for.
    n_resumed : int
        Of these, answered by an earlier call.
    n_without_title : int
        Not asked for: their history has no title.
    failures : tuple of Failure
        Without an answer; another call asks again.
    retried : dict of str to int
        Tries after the first, by what had gone wrong.
    parsed : GenerationYield
        What became of all answers of the file.
    """

    output: Path
    answers: Path
    n_wanted: int
    n_resumed: int
    n_without_title: int
    failures: tuple[Failure, ...]
    retried: dict[str, int]
    parsed: GenerationYield


def generate(
    dataset: str | Path | Dataset,
    output: str | Path,
    server: ServerSettings,
    settings: GenerateSettings | None = None,
    *,
    answers: str | Path | None = None,
    prompts: str | Path | None = None,
    split: Whom = "train",
    users: Collection[str] | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    model: LanguageModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Ask a language model for names, and write the names file.

    Parameters
    ----------
    dataset : str or Path or Dataset
        The data set folder, or what was read from it.
    output : str or Path
        The names file; one that an earlier call wrote is replaced, which is told by its answers file.
    server : ServerSettings
        Where the model is. Nothing is sent anywhere else.
    settings : GenerateSettings, optional
    answers : str or Path, optional
        The answers file; the output's name with ``.answers`` behind it if not given.
    prompts : str or Path, optional
        A TOML file in place of the shipped prompts, whole or in part.
    split : {"train", "valid", "test", "items"}
        train: users without an item of a domain. valid, test: each user with every domain hidden in turn.
        items: the items, those with the same words in their titles once.
    users : collection of str, optional
        Ask for these alone.
    limit : int, optional
        Ask for so many, drawn by seed; a larger limit asks for the same and more.
    overwrite : bool
        Replace a names file that is of something else, too.
    model : LanguageModel, optional
        Asked in place of the server.
    progress : callable, optional
        Called with the number of users done and of all.

    Returns
    -------
    GenerateResult

    Raises
    ------
    GenerationError
        If the server refuses the credentials or the model, too many requests in a row fail, or the
        answers file is of another run. What was answered until then is kept.
    DataError, UsageError, MissingDependencyError
    """
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    answers = None if answers is None else Path(answers)
    prompts = None if prompts is None else Path(prompts)
    settings = settings or GenerateSettings()
    templates = load_templates(prompts)
    wanted = select(dataset, server, settings, templates, split=split, users=users, limit=limit)
    _check(server, settings)
    path = answers or output.with_name(output.name + ".answers")
    if output.exists() and not path.exists() and not overwrite:
        raise DataError(
            f"{output}: exists already, and its answers file {path} does not; choose another name or ask for "
            "it to be overwritten"
        )
    run = _describe(wanted.dataset, split, server, settings, templates)
    stopped = threading.Event()
    stop = (*templates.stop, f"\n{settings.prompt.n_names + 1}.")  # of a list that is long enough
    asked = model or OpenAIModel(server, stop, stopped)
    try:
        with open_answers(path, run) as file:
            todo = [h for h in wanted.histories if wanted.key(h) not in file.answers]
            n_resumed = len(wanted.histories) - len(todo)
            asking = Asking(asked, wanted, settings.output_format, settings.concurrency, stopped)
            report = progress or (lambda done, n: None)
            failures = asking.ask_all(todo, file, lambda n: report(n_resumed + n, len(wanted.histories)))
            found = list(file.answers.values())
            parsed = write_parsed(output, found, wanted.builder, wanted.dataset, split, server.model)
    finally:
        if isinstance(asked, OpenAIModel):
            asked.close()
    retried = dict(asked.retried) if isinstance(asked, OpenAIModel) else {}
    return GenerateResult(
        output, path, len(wanted.histories), n_resumed, wanted.n_without_title, failures, retried, parsed
    )


def select(
    dataset: Path | Dataset,
    server: ServerSettings,
    settings: GenerateSettings,
    templates: PromptTemplates,
    *,
    split: Whom = "train",
    users: Collection[str] | None = None,
    limit: int | None = None,
) -> Wanted:
    """Choose whom to ask; see `generate`.

    Raises
    ------
    DataError
        If a user is none that names can be wanted for.
    """
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    builder = PromptBuilder(data, templates, settings.prompt, server.endpoint)
    histories = cold_histories(data, split)
    if users is not None:
        chosen = set(users)
        unknown = chosen - {history.user for history in histories}
        if unknown:
            kinds = {
                "train": "user of the train split without items of a domain",
                "items": "item that is asked for",
            }
            kind = kinds.get(split, f"user with items of several domains of the {split} split")
            raise DataError(f"{min(unknown)!r} is no {kind} ({len(unknown)} such names)")
        histories = [history for history in histories if history.user in chosen]
    titled = [h for h in histories if builder.titles(h.rows, builder.others(h.domain))]
    random.Random(settings.prompt.seed).shuffle(titled)
    n_without = len(histories) - len(titled)
    return Wanted(data, titled if limit is None else titled[:limit], builder, n_without)


def _check(server: ServerSettings, settings: GenerateSettings) -> None:
    if server.endpoint == "completion" and settings.output_format == "json":
        raise UsageError("the completion endpoint does not support output_format 'json'; use 'list'")


def _describe(
    data: Dataset,
    split: Whom,
    server: ServerSettings,
    settings: GenerateSettings,
    templates: PromptTemplates,
) -> dict[str, Any]:
    """All that decides an answer; not where the server is, which may move."""
    return {
        "dataset": _hash_dataset(data, split),
        "split": split,
        "model": server.model,
        "endpoint": server.endpoint,
        "temperature": server.temperature,
        "frequency_penalty": server.frequency_penalty,
        "max_tokens": server.max_tokens,
        "output_format": settings.output_format,
        "prompts": templates.fingerprint,
        **asdict(settings.prompt),
    }


def _hash_dataset(data: Dataset, split: Whom) -> str:
    """Hash of what prompts are made of."""
    catalogue = data.catalogue
    digest = hashlib.sha256(json.dumps([list(catalogue.titles), *map(vars, catalogue.domains)]).encode())
    for histories in (data.train, data.train if split == "items" else data.split(split)):
        digest.update(json.dumps(list(histories.users)).encode())
        digest.update(histories.offsets.tobytes())
        digest.update(histories.rows.tobytes())
    return digest.hexdigest()
