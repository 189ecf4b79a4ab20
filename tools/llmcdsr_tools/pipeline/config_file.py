"""The configuration of `fit`: one TOML file, a table a stage.

The keys of a table are the fields of that stage's settings; a key that is left out has the stage's
default. ``llmcdsr fit --example`` prints a file with comments (``example.toml``). Relative paths are
relative to the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError, SettingsError
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.generate.generate_settings import GenerateSettings, ServerSettings
from llmcdsr_tools.pipeline.config_tables import check_keys, read_table, read_tables
from llmcdsr_tools.pipeline.fit_config import (
    EmbedTable,
    ExportTable,
    FitConfig,
    IngestTable,
    NamesTable,
    TrainTable,
)
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.setting_fields import Count, check_settings, usable_threads
from llmcdsr_tools.train.recipes import OFFICIAL, TrainSettings
from llmcdsr_tools.train.starting_model import read_starting_model

__all__ = ["FitConfig", "load_config"]


@dataclass(frozen=True)
class _TopLevel:
    work: Path = Path("work")
    bundle: Path = Path("bundle")
    report: Path = Path("report.html")
    threads: Count = 1

    def __post_init__(self) -> None:
        check_settings(self)


_TABLES: dict[str, tuple[type[Any], ...]] = {
    "ingest": (IngestTable, IngestSettings),
    "embed": (EmbedTable,),
    "names": (NamesTable,),
    "generate": (ServerSettings, GenerateSettings),
    "pretrain": (PretrainSettings,),
    "train": (TrainTable, TrainSettings),
    "export": (ExportTable,),
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
    check_keys(content, [*top_keys, *_TABLES], str(path))
    tables = {name: table for name, table in content.items() if name not in top_keys}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise DataError(f"{path}: {name} must be a table, found {table!r}")
    top = read_table(_TopLevel, {k: v for k, v in content.items() if k in top_keys}, str(path), folder)
    if "ingest" not in tables:
        raise DataError(f'{path}: table [ingest] is missing; it needs source = "..."')
    ingest, ingest_settings = _read("ingest", tables, path)
    beside, train = _read("train", tables, path)
    if beside.start_from is not None:
        train = read_starting_model(beside.start_from, members=beside.members).sized(train)
    start = beside.text_initialization
    server, generate = _read("generate", tables, path) if "generate" in tables else (None, GenerateSettings())
    (embed,), (names,), (export,) = (_read(name, tables, path) for name in ("embed", "names", "export"))
    (pretrain,) = _read("pretrain", tables, path, hidden=train.hidden)
    try:
        return FitConfig(
            str(path),
            text,
            folder / top.work,
            ingest,
            folder / top.bundle,
            folder / top.report,
            ingest_settings,
            None,
            usable_threads(top.threads),
            not train.pretrained_items if start is None else start,
            beside.members,
            beside.distill,
            beside.refit,
            beside.start_from,
            embed,
            names,
            server,
            generate,
            pretrain,
            train,
            export,
        )
    except SettingsError as error:
        raise DataError(f"{path}: {error}") from None


def _read(name: str, tables: Mapping[str, Mapping[str, Any]], path: Path, **default: Any) -> tuple[Any, ...]:
    """Settings that one table holds; `default` are values that a key which is left out has."""
    table = {**default, **tables.get(name, {})}
    if name == "train" and table.get("recipe") == "official":
        table = {**OFFICIAL, **table}
    return read_tables(_TABLES[name], table, f"{path} [{name}]", path.resolve().parent)
