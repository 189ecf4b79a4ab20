"""Embedding, generating and evaluating through the console command."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_llm_server import FakeServer, serving
from snack_world import N_A, N_B, N_SINGLE, make_dataset
from tiny_encoder import E, make_tiny_model, write_encoder

from llmcdsr_tools.cli.generation import read_user_ids
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.embed_names import load_embedded_names
from llmcdsr_tools.generate.prompt_templates import shipped_templates
from llmcdsr_tools.names import read_names

pytest.importorskip("openai")

Command = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llmcdsr: Command) -> Path:
    """A data set, an encoder, and title embeddings made from them."""
    folder = tmp_path_factory.mktemp("generation")
    save_dataset(make_dataset(), folder / "dataset")
    write_encoder(folder / "encoder", make_tiny_model())
    made = ok(llmcdsr("embed", "dataset", "--encoder", "encoder", "-o", "titles.npy", cwd=folder))
    assert made == f"{N_A + N_B} titles embedded with {E} values each; 0 items have no title\n"
    return folder


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr  # no counting where stderr is no terminal
    return done.stdout.decode()


def test_neighbours_and_their_embeddings(folder: Path, llmcdsr: Command, tmp_path: Path) -> None:
    names, embedded = tmp_path / "names.jsonl", tmp_path / "names.npz"
    told = ok(llmcdsr("neighbours", "dataset", "-o", names, "--names", "3", "--neighbors", "5", cwd=folder))
    records = read_names(names)
    n_names = sum(len(r.names) for r in records)
    assert told.startswith(f"{n_names} names for {len(records)} users; {N_SINGLE - len(records)} users share")
    assert max(len(r.names) for r in records) == 3
    told = ok(llmcdsr("embed-names", names, "dataset", "--titles", "titles.npy", "-o", embedded, cwd=folder))
    assert told.startswith(f"{n_names} names of {len(records)} users embedded, ")
    assert told.endswith(" distinct, 0 of them no titles\n")
    assert len(load_embedded_names(embedded, make_dataset())) == len(records)


def test_generate_look_first_then_ask(
    folder: Path, llmcdsr: Command, server: FakeServer, tmp_path: Path
) -> None:
    names = tmp_path / "names.jsonl"
    call = ("generate", "dataset", "--model", "m", "-o", names, "--names", "5", "--retries", "0")
    looked = ok(llmcdsr(*call, "--dry-run", "--price-in", "1", "--price-out", "2", cwd=folder))
    assert f"--- {N_SINGLE} requests ---" in looked
    assert looked.endswith(" at the given prices\n")
    plan = json.loads(ok(llmcdsr(*call, "--dry-run", "--json", "--limit", "3", cwd=folder)))
    assert (plan["n_requests"], plan["cost"]) == (3, None)
    server.faults = ["500"]
    asked = (*call, "--base-url", server.url, "--concurrency", "1")
    failed = llmcdsr(*asked, cwd=folder)
    assert failed.returncode == 1
    assert f"1 of {N_SINGLE} users have no answer; the same command asks" in failed.stderr.decode()
    assert failed.stdout.decode().startswith(f"{N_SINGLE - 1} of {N_SINGLE - 1} answers kept (100.0%)")
    told = ok(llmcdsr(*asked, cwd=folder))
    assert f"{N_SINGLE - 1} users had been answered by an earlier call" in told
    assert len(read_names(names)) == N_SINGLE
    assert len(server.requests) == N_SINGLE + 1
    result = json.loads(ok(llmcdsr(*asked, "--json", cwd=folder)))
    assert (result["parsed"]["n_kept"], result["failures"]) == (N_SINGLE, [])


def test_generate_for_some_users_with_ones_own_words(
    folder: Path, llmcdsr: Command, server: FakeServer, tmp_path: Path
) -> None:
    prompts = tmp_path / "mine.toml"
    prompts.write_text('[chat]\nsystem = "Be kind."\n')
    arguments = ("generate", "dataset", "--base-url", server.url, "--model", "m", "--prompts", prompts)
    environment = {**os.environ, "SHOP_KEY": "secret"}
    done = llmcdsr(
        *(*arguments, "-o", tmp_path / "names.jsonl", "--users", "-", "--api-key-env", "SHOP_KEY"),
        cwd=folder,
        input=b"u3\n\nu8\n",
        env=environment,
    )
    ok(done)
    assert [r.user for r in read_names(tmp_path / "names.jsonl")] == ["u3", "u8"]
    for request in server.requests:
        assert request["headers"]["authorization"] == "Bearer secret"
        assert request["body"]["messages"][0]["content"] == "Be kind."
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()


def test_nothing_is_sent_unless_an_address_is_given(folder: Path, llmcdsr: Command, tmp_path: Path) -> None:
    environment = {**os.environ, "OPENAI_API_KEY": "key", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    done = llmcdsr(
        "generate", "dataset", "--model", "m", "-o", tmp_path / "n.jsonl", cwd=folder, env=environment
    )
    assert done.returncode == 2
    assert b"name the server: --base-url, or look first: --dry-run" in done.stderr


def test_wrong_credentials_are_one_line(
    folder: Path, llmcdsr: Command, server: FakeServer, tmp_path: Path
) -> None:
    server.always = "401"
    done = llmcdsr(
        *("generate", "dataset", "--base-url", server.url, "--model", "m", "-o", tmp_path / "n.jsonl"),
        cwd=folder,
    )
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert "refuses the credentials (status 401)" in done.stderr.decode()


def test_the_shipped_prompts_are_shown(llmcdsr: Command) -> None:
    assert ok(llmcdsr("generate", "--show-prompts")) == shipped_templates()


@pytest.mark.slow
def test_evaluate_generator(
    folder: Path, llmcdsr: Command, script: Command, server: FakeServer, tmp_path: Path
) -> None:
    names = tmp_path / "names.jsonl"
    ok(llmcdsr(
        *("generate", "dataset", "--base-url", server.url, "--model", "m", "-o", names, "--split", "valid"),
        cwd=folder,
    ))  # fmt: skip
    call = (
        "evaluate_generator.py",
        "dataset",
        "--titles",
        "titles.npy",
        "--names",
        names,
        "--encoder",
        "encoder",
    )
    results = json.loads(ok(script(*call, "--json", cwd=folder)))
    generators = ["random", "popular", "centroid", "neighbours, 100 titles", "neighbours", "m"]
    assert [(r["domain"], r["generator"]) for r in results] == [
        (domain, generator) for domain in ("food", "kitchen") for generator in generators
    ]
    assert all(r["n_users"] == 4 and 0 <= r["recall100"] <= 1 for r in results)
    table = ok(script(*call, cwd=folder)).splitlines()
    assert len(table) == 13
    assert f"{results[-1]['recall100']:.4f}" in table[-1]


def test_on_a_terminal_it_counts(folder: Path, tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    command = [str(Path(sys.executable).with_name("llmcdsr")), "embed", "dataset", "--encoder", "encoder"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "titles.npy")],
        cwd=folder, stdout=subprocess.PIPE, stderr=secondary, timeout=60, check=True,
    )  # fmt: skip
    os.close(secondary)
    told = os.read(primary, 10_000).decode()
    os.close(primary)
    assert f"\r\x1b[K{N_A + N_B} of {N_A + N_B} titles, " in told
    assert done.stdout.startswith(f"{N_A + N_B} titles embedded".encode())
    assert np.load(tmp_path / "titles.npy").shape == (N_A + N_B, E)


def test_user_ids_end_where_lines_do(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_bytes("a\u2028b\r\nc\x0bd\n\n".encode())
    assert read_user_ids(tmp_path / "users.txt") == ["a\u2028b", "c\x0bd"]
