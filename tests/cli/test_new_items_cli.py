"""``llmcdsr add-items`` as users call it."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import E, make_tiny_model, write_encoder

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.text.title_neighbours import TitleMap

Command = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def model(
    bundle_data: Bundle,
    title_map: TitleMap,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle for an encoder of E values."""
    titles = replace(title_map, components=title_map.components[: E + 1])
    return build_bundle(replace(bundle_data, new_items=titles), tmp_path_factory.mktemp("cli") / "bundle")


def lines(*items: Any) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


PAN = {"id": "pan", "domain": "kitchen", "title": "red pan"}
TEA = {"id": "tea", "domain": "food", "title": "", "embedding": [0.5] * E}


def test_new_items_are_scored_with_the_new_bundle(model: Path, llmcdsr: Command, tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder", make_tiny_model())
    with gzip.open(tmp_path / "new.jsonl.gz", "wb") as file:
        file.write(lines(PAN) + b"\n" + lines(TEA))
    grown = tmp_path / "grown"
    done = llmcdsr(
        *("add-items", "--model", model, "--items", tmp_path / "new.jsonl.gz", "--encoder", encoder),
        *("-o", grown),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert done.stderr.decode() == "food: 1 items added, 13 in all\nkitchen: 1 items added, 19 in all\n"
    scored = llmcdsr(
        "score", "-", "--model", grown, "-k", "40", input=b'{"user": 1, "history": ["pan", "f1"]}'
    )
    assert scored.returncode == 0, scored.stderr
    found = [item["id"] for item in json.loads(scored.stdout)["items"]]
    expected = Recommender.load(grown, backend="numpy").recommend(["pan", "f1"], k=40)
    assert found == [item.id for item in expected]
    assert "tea" in found
    shown = llmcdsr("inspect", grown)
    assert b"new items: 1 of food, 1 of kitchen were added" in shown.stdout


def test_standard_input_and_the_numpy_backend(model: Path, llmcdsr: Command, tmp_path: Path) -> None:
    command = ("add-items", "--model", model, "--items", "-", "-o", tmp_path / "grown", "--backend", "numpy")
    assert llmcdsr(*command, input=lines(TEA)).returncode == 0
    assert Recommender.load(tmp_path / "grown").items.ids[12] == "tea"
    again = llmcdsr(*command, input=lines(TEA))
    assert again.returncode == 1
    assert b"exists already" in again.stderr
    assert llmcdsr(*command, "--overwrite", input=lines({**TEA, "id": "tea2"})).returncode == 0
    assert "tea2" in Recommender.load(tmp_path / "grown").items.ids


@pytest.mark.parametrize(
    ("second", "reason", "status"),
    [
        (b"{", ":3: not valid JSON", 1),
        (b"\xff", ":3: not valid JSON", 1),
        (b"[]", ":3: expected a JSON object, found list", 1),
        (lines({**TEA, "colour": 1}), ":3: field 'colour' is not one of id, domain, title, embedding", 1),
        (lines({"id": "x"}), ":3: field 'domain' is missing", 1),
        (lines({**TEA, "id": "k3"}), ":3: item 'k3' is in the catalogue already", 1),
        (lines(TEA), "came before, as ", 1),
        (lines({**TEA, "id": "x", "domain": "toys"}), ":3: no domain is named 'toys'", 1),
        (lines({**TEA, "id": "x", "embedding": [1.0]}), ":3: item 'x': its embedding has the shape (1,)", 1),
        (lines(PAN), ":3: item 'pan' has no embedding, and there is no encoder for its title", 2),
    ],
)
def test_errors_name_the_line(
    model: Path, llmcdsr: Command, tmp_path: Path, second: bytes, reason: str, status: int
) -> None:
    path = tmp_path / "new.jsonl"
    path.write_bytes(lines(TEA) + b"\n" + second)
    done = llmcdsr("add-items", "--model", model, "--items", path, "-o", tmp_path / "grown")
    assert done.returncode == status
    assert reason in done.stderr.decode()
    assert str(path) in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "grown").exists()


def test_a_file_that_cannot_be_read(model: Path, llmcdsr: Command, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl.gz").write_bytes(b"no gzip")
    for name in ("new.jsonl.gz", "none.jsonl"):
        path = tmp_path / name
        done = llmcdsr("add-items", "--model", model, "--items", path, "-o", tmp_path / "grown")
        assert done.returncode == 1
        assert f"{path}: cannot be read" in done.stderr.decode()


def test_vectors_do_not_depend_on_the_company(model: Path, tmp_path: Path) -> None:
    """An item has the vector that it has alone, whatever else is added."""
    encoder = write_encoder(tmp_path / "encoder", make_tiny_model())
    recommender = Recommender.load(model, encoder=encoder)
    alone = recommender.add_items([PAN]).bundle.item_vectors[-1]
    others = [{"id": f"n{n}", "domain": "kitchen", "title": "the blue pot " * n} for n in range(1, 6)]
    together = recommender.add_items([*others, PAN]).bundle.item_vectors[-1]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
