"""The configuration of `fit`: one TOML file, a table a stage.

The keys of a table are the fields of that stage's settings; a key that is left out has the stage's
default. ``llmcdsr fit --example`` prints a file with comments (``example.toml``). Relative paths are
relative to the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from llmcdsr_lite.errors import DataError, LlmcdsrError
from llmcdsr_tools.generate.language_model import ServerSettings
from llmcdsr_tools.generate.stage import GenerateSettings
from llmcdsr_tools.ingest.stage import IngestSettings
from llmcdsr_tools.pipeline.config_tables import check_keys, read_table
from llmcdsr_tools.pipeline.settings import (
    EmbedTable,
    ExportTable,
    FitConfig,
    IngestTable,
    NamesTable,
)
from llmcdsr_tools.pretrain.stage import PretrainSettings
from llmcdsr_tools.setting_checks import usable_threads
from llmcdsr_tools.train.settings import OFFICIAL, Recipe
from llmcdsr_tools.train.stage import TrainSettings

__all__ = ["FitConfig", "load_config"]


@dataclass(frozen=True)
class _TopLevel:
    work: Path = Path("work")
    bundle: Path = Path("bundle")
    report: Path = Path("report.html")
    threads: int = 1


_TABLES = {
    "embed": EmbedTable,
    "names": NamesTable,
    "export": ExportTable,
}


def load_config(path: Path) -> FitConfig:
    """Read a configuration.

    Raises
    ------
    DataError
        If the file cannot be read, is not TOML, or has a key or value that cannot be meant; the message
        names the table and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML
        raise DataError(f"{path}: not valid TOML: {error}") from None
    folder = path.resolve().parent
    top_keys = [f.name for f in fields(_TopLevel)]
    check_keys(content, [*top_keys, "ingest", *_TABLES, "generate", "pretrain", "train"], str(path))
    tables = {k: v for k, v in content.items() if k not in top_keys}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise DataError(f"{path}: {name} must be a table, found {table!r}")
    top = read_table(_TopLevel, {k: v for k, v in content.items() if k in top_keys}, str(path), folder)
    if top.threads < 1:
        raise DataError(f"{path}: threads must be at least 1, found {top.threads}")
    train, text_initialization, members, distill = _train(tables.get("train", {}), path)
    pretrain_table = {"hidden": train.hidden, **tables.get("pretrain", {})}
    pretrain = _read(PretrainSettings, pretrain_table, path, "pretrain")
    if pretrain.hidden != train.hidden:
        raise DataError(
            f"{path}: [pretrain] hidden is {pretrain.hidden}, [train] hidden is {train.hidden}: the recall "
            "network needs one space for both; leave it out of [pretrain]"
        )
    if "ingest" not in tables:
        raise DataError(f'{path}: table [ingest] is missing; it needs source = "..."')
    server, generate = _generate(tables.get("generate"), path)
    config = FitConfig(
        path,
        text,
        folder / top.work,
        folder / top.bundle,
        folder / top.report,
        _ingest(tables["ingest"], path),
        usable_threads(top.threads),
        text_initialization,
        server=server,
        generate=generate,
        pretrain=pretrain,
        train=train,
        members=members,
        distill=distill,
        **{name: _read(cls, tables.get(name, {}), path, name) for name, cls in _TABLES.items()},
    )
    _check_together(config)
    return config


def _check_together(config: FitConfig) -> None:
    """Refuse what only two tables together show to be wrong, before hours of work."""
    path, generator = config.path, config.names.generator
    if (generator == "llm") != (config.server is not None):
        raise DataError(f"{path}: table [generate] goes with [names] generator = 'llm', and only with it")
    if generator == "llm" and config.embed.encoder is None:
        raise DataError(
            f"{path}: names of a language model are no titles, they need an encoder; name its folder in "
            "[embed] encoder"
        )
    if generator in ("llm", "file") and (config.embed.prompt, config.embed.max_length) != (None, None):
        raise DataError(
            f"{path}: [embed] prompt and max_length hold for titles alone; names would be embedded "
            "otherwise, so leave them out with [names] generator = 'llm' or 'file'"
        )
    if config.members > 1 and (generator != "none" or config.train.pretrained_items):
        raise DataError(f"{path}: [train] members is for training without names and pre-trained items")
    if config.distill and (config.members == 1 or config.train.loss != "sampled-softmax"):
        raise DataError(f"{path}: [train] distill needs two members or more, and the loss sampled-softmax")
    if generator == "none" and config.train.inner_optimizer not in ("auto", "none"):
        raise DataError(
            f"{path}: [train] inner_optimizer is {config.train.inner_optimizer!r}, which needs names; "
            "[names] generator is 'none'"
        )


def _train(table: Mapping[str, Any], path: Path) -> tuple[TrainSettings, bool, int, bool]:
    """Settings of `train`, `text_initialization`, the number of members, and whether to distil them."""
    recipe = table.get("recipe", "best")
    if recipe not in get_args(Recipe):
        raise DataError(
            f"{path} [train] recipe: expected one of {', '.join(get_args(Recipe))}, found {recipe!r}"
        )
    extra = ("text_initialization", "recipe", "members", "distill")
    own = {k: v for k, v in table.items() if k not in extra}
    if recipe == "official":
        own = {**OFFICIAL, **own}
    settings: TrainSettings = _read(TrainSettings, own, path, "train", extra=extra)
    members = table.get("members", 1)
    if type(members) is not int or members < 1:
        raise DataError(f"{path} [train] members: expected a whole number from 1, found {members!r}")
    distill = table.get("distill", False)
    if not isinstance(distill, bool):
        raise DataError(f"{path} [train] distill: expected true or false, found {distill!r}")
    text_initialization = table.get("text_initialization", not settings.pretrained_items)
    if not isinstance(text_initialization, bool):
        raise DataError(f"{path} [train] text_initialization: expected true or false")
    if text_initialization and settings.pretrained_items:
        raise DataError(f"{path} [train]: items start from the titles or from pre-training, not from both")
    try:
        decided = replace(settings, max_length=settings.max_length or 1)
        decided.model_config(1)  # refuses sizes that no model can have
    except LlmcdsrError as error:
        raise DataError(f"{path} [train]: {error}") from None
    return settings, text_initialization, members, distill


def _generate(table: Mapping[str, Any] | None, path: Path) -> tuple[ServerSettings | None, GenerateSettings]:
    """The server, and how it is asked: one table for both."""
    if table is None:
        return None, GenerateSettings()
    of_server = {f.name for f in fields(ServerSettings)}
    of_settings = {f.name for f in fields(GenerateSettings)}
    server, settings = (
        _read(
            cls,
            {k: v for k, v in table.items() if k in own or k not in of_server | of_settings},
            path,
            "generate",
            extra=tuple(of_server | of_settings),
        )
        for cls, own in ((ServerSettings, of_server), (GenerateSettings, of_settings))
    )
    return server, settings


def _ingest(table: Mapping[str, Any], path: Path) -> IngestTable:
    settings = {k: v for k, v in table.items() if k not in ("source", "items")}
    own = {}
    for key in ("source", "items"):
        value = table.get(key)
        if value is None and key == "source":
            raise DataError(f"{path} [ingest]: key 'source' is missing")
        if value is not None and (not isinstance(value, str) or not value):
            raise DataError(f"{path} [ingest] {key}: expected a path, found {value!r}")
        own[key] = None if value is None else path.resolve().parent / value
    source = own["source"]
    assert source is not None
    return IngestTable(
        source, own["items"], _read(IngestSettings, settings, path, "ingest", extra=("source", "items"))
    )


def _read(
    cls: type[Any], table: Mapping[str, Any], path: Path, name: str, extra: tuple[str, ...] = ()
) -> Any:
    """Read one table; `extra` are keys of it that were taken out before."""
    where = f"{path} [{name}]"
    check_keys(table, [*(f.name for f in fields(cls)), *extra], where)
    return read_table(cls, table, where, path.resolve().parent)
