from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.cli.pipeline import example_config
from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings
from llmcdsr_tools.generate.generate_settings import GenerateSettings, PromptSettings, ServerSettings
from llmcdsr_tools.pipeline.config_file import FitConfig, load_config
from llmcdsr_tools.pipeline.fit_config import EmbedTable, NamesTable, TrainTable
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.train.recipes import OFFICIAL, TrainSettings

MINIMAL = '[ingest]\nsource = "log.csv"\n'
SERVER = "[generate]\nbase_url = 'http://x/v1'\nmodel = 'm'\n"


def load(folder: Path, text: str) -> FitConfig:
    path = folder / "fit.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_everything_has_a_default_but_the_source(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.data.source == tmp_path / "log.csv"
    assert config.data.items is None
    assert config.ingest == IngestSettings()
    assert (config.work, config.bundle) == (tmp_path / "work", tmp_path / "bundle")
    assert config.report == tmp_path / "report.html"
    assert config.train == TrainSettings()
    assert config.pretrain == PretrainSettings()
    assert config.embed == EmbedTable()
    assert config.names == NamesTable()
    assert config.text_initialization
    assert config.text == MINIMAL


def test_what_is_given(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        'work = "w"\nbundle = "/b"\nthreads = 2\n'
        '[ingest]\nsource = "s"\nitems = "i.csv"\ndomains = ["x", "y"]\ncore = 0\n'
        '[ingest.columns]\nuser = "uid"\n'
        '[embed]\nencoder = "minilm"\n[names]\ngenerator = "file"\nfile = "n.jsonl"\n'
        "[pretrain]\nheld_out = 0.1\n"
        "[train]\nhidden = 32\ntext_initialization = false\n[export]\nseed = 4\nbest_for = 'b'\n",
    )
    assert (config.work, config.bundle, config.threads) == (tmp_path / "w", Path("/b"), 2)
    assert config.data.items == tmp_path / "i.csv"
    assert config.ingest == IngestSettings(("x", "y"), Columns(user="uid"), core=0)
    assert config.embed.encoder == tmp_path / "minilm"
    assert config.names == NamesTable("file", tmp_path / "n.jsonl")
    assert config.train == TrainSettings(hidden=32)
    assert config.pretrain == PretrainSettings(hidden=32, held_out=0.1)  # one space for both
    assert not config.text_initialization
    assert (config.export.seed, config.export.best_for) == (4, "b")


def test_a_language_model(tmp_path: Path) -> None:
    text = MINIMAL + SERVER + "concurrency = 2\nprompt = {n_examples = 1}\n[embed]\nencoder = 'e'\n"
    config = load(tmp_path, text + "[names]\ngenerator = 'llm'\nlimit = 5\n")
    assert config.server == ServerSettings("http://x/v1", "m")
    assert config.generate == GenerateSettings(PromptSettings(n_examples=1), concurrency=2)
    assert config.names.limit == 5


def test_items_that_start_from_pre_training_do_not_start_from_titles(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + "[train]\npretrained_items = true")
    assert config.train.pretrained_items
    assert not config.text_initialization


def test_a_recipe_is_replaced_key_by_key(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + "[train]\nrecipe = 'official'\nn_epochs = 7\ndropout = 0.4")
    expected = TrainSettings(**{**OFFICIAL, "n_epochs": 7, "dropout": 0.4})
    assert config.train == expected
    assert expected.loss == "bce"
    assert load(tmp_path, MINIMAL + "[train]\nrecipe = 'best'\nmembers = 3").train == TrainSettings()
    assert load(tmp_path, MINIMAL + "[train]\nmembers = 3").members == 3
    with pytest.raises(DataError, match="members must be at least 1, found 0"):
        load(tmp_path, MINIMAL + "[train]\nmembers = 0")
    assert load(tmp_path, MINIMAL + "[train]\nmembers = 3\ndistill = true").distill
    with pytest.raises(DataError, match=r"distill needs two members or more"):
        load(tmp_path, MINIMAL + "[train]\ndistill = true")
    with pytest.raises(DataError, match=r"distill needs .* the loss sampled-softmax"):
        load(tmp_path, MINIMAL + "[train]\nmembers = 2\ndistill = true\nrecipe = 'official'")
    with pytest.raises(DataError, match=r"distill: expected true or false, found 2"):
        load(tmp_path, MINIMAL + "[train]\nmembers = 3\ndistill = 2")
    with pytest.raises(DataError, match=r"members is for training without names"):
        load(tmp_path, MINIMAL + "[train]\nmembers = 2\n[names]\ngenerator = 'neighbours'")
    with pytest.raises(DataError, match="recipe: expected one of 'best', 'official', found 'papers'"):
        load(tmp_path, MINIMAL + "[train]\nrecipe = 'papers'")


def test_the_example_is_one(tmp_path: Path) -> None:
    config = load(tmp_path, example_config())
    assert config.data.source == tmp_path / "interactions.csv.gz"
    assert config.train == TrainSettings()
    assert config.text_initialization
    # keys that are commented out are real ones, too
    lines = [line.removeprefix("# ") for line in example_config().splitlines() if line.startswith("# ")]
    keys = [line.split(" = ")[0] for line in lines if " = " in line.split("#")[0]]
    tables = (
        IngestSettings,
        EmbedTable,
        NamesTable,
        ServerSettings,
        PretrainSettings,
        TrainSettings,
        TrainTable,
    )
    known = {f.name for cls in tables for f in fields(cls)}
    assert keys
    assert set(keys) <= known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table [ingest] is missing"),
        ("[ingest]\ncore = 1", "[ingest]: key 'source' is missing"),
        ("[ingest]\nsource = 3", "[ingest] source: expected a path, found 3"),
        ("[ingest]\nsource = 's'\nitem = 'x'", "[ingest]: unknown key 'item'; did you mean 'items'?"),
        (MINIMAL + "[trian]\nhidden = 3", "unknown key 'trian'; did you mean 'train'?"),
        (MINIMAL + "[train]\nn_epoch = 3", "[train]: unknown key 'n_epoch'; did you mean 'n_epochs'?"),
        (MINIMAL + "[train]\ntext_initialisation = true", "did you mean 'text_initialization'?"),
        (MINIMAL + "[train]\ntext_initialization = 1", "[train] text_initialization: expected true or false"),
        (
            MINIMAL + "[train]\ntext_initialization = true\npretrained_items = true",
            "from the titles or from pre-training, not from both",
        ),
        (
            MINIMAL + "[train]\ninner_optimizer = 'sgd'\n[names]\ngenerator = 'none'",
            "inner_optimizer is 'sgd', which needs names",
        ),
        (MINIMAL + "[names]\ngenerator = 'llm'", "[generate] goes with [names] generator = 'llm'"),
        (MINIMAL + SERVER, "[generate] goes with [names] generator = 'llm'"),
        (
            MINIMAL + SERVER + "[names]\ngenerator = 'llm'",
            "need an encoder; name its folder in [embed] encoder",
        ),
        (
            MINIMAL + "[embed]\nmax_length = 9\n[names]\ngenerator = 'file'\nfile = 'x'",
            "[embed] prompt and max_length hold for titles alone",
        ),
        (MINIMAL + "[generate]\nmodel = 'm'", "[generate]: key 'base_url' is missing"),
        (
            MINIMAL + SERVER + "temprature = 1",
            "[generate]: unknown key 'temprature'; did you mean 'temperature'?",
        ),
        (MINIMAL + SERVER + "prompt = {n_example = 2}", "[generate] prompt: unknown key 'n_example'"),
        (MINIMAL + "[train]\nhidden = 0", "[train]: hidden must be at least 1 and at most 8192, found 0"),
        (MINIMAL + "[train]\ndropout = 2.0", "[train]: dropout must be at least 0 and below 1, found 2.0"),
        (MINIMAL + "[pretrain]\nhidden = 32", "[pretrain] hidden is 32, [train] hidden is 64"),
        (MINIMAL + "[names]\ngenerator = 'gpt'", "[names] generator: expected one of 'neighbours'"),
        (MINIMAL + "[names]\ngenerator = 'file'", "[names]: key 'file' goes with generator = 'file'"),
        (MINIMAL + "[names]\nfile = 'x'", "[names]: key 'file' goes with generator = 'file'"),
        (MINIMAL + "[ingest.columns]\nusers = 'x'", "[ingest] columns: unknown key 'users'"),
        ("threads = 0\n" + MINIMAL, "threads must be at least 1"),
        ("thread = 1\n" + MINIMAL, "unknown key 'thread'; did you mean 'threads'?"),
        ("train = 3\n" + MINIMAL, "train must be a table, found 3"),
        ("x = [", "not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "fit.toml"))


@pytest.mark.parametrize("name", ["train", "pretrain", "ingest"])
def test_every_setting_of_a_stage_is_a_key(tmp_path: Path, name: str) -> None:
    """Values that TOML can write, each the default: nothing changes, and nothing is refused."""
    cls: Any = {"train": TrainSettings, "pretrain": PretrainSettings, "ingest": IngestSettings}[name]
    lines = []
    for field in fields(cls):
        default = getattr(cls(), field.name)
        if isinstance(default, bool):
            lines.append(f"{field.name} = {str(default).lower()}")
        elif isinstance(default, (int, float, str)):
            lines.append(f"{field.name} = {default!r}")
    assert len(lines) >= 5
    text = MINIMAL if name == "ingest" else MINIMAL + f"[{name}]\n"
    config = load(tmp_path, text + "\n".join(lines))
    assert (config.ingest if name == "ingest" else getattr(config, name)) == cls()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.toml: cannot be read: No such file"):
        load_config(tmp_path / "no.toml")
    (tmp_path / "bytes.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(DataError, match="not valid TOML"):
        load_config(tmp_path / "bytes.toml")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
def test_threads_are_no_more_than_processors(tmp_path: Path) -> None:
    assert load(tmp_path, "threads = 99999\n" + MINIMAL).threads == len(os.sched_getaffinity(0))
