"""Embedded names: every name's vector, found again for every user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import PLACES, E, TinyModel, make_texts, make_tiny_model, write_encoder

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.embed_names import embed_names, load_embedded_names
from llmcdsr_tools.names import GeneratedNames, write_names

N_A, N_B = 6, 8
NEW = ["the pan", "a of soup ", "soup"]  # no titles


@pytest.fixture
def titles() -> list[str]:
    titles = make_texts(N_A + N_B)
    titles[9] = titles[2]
    return titles


@pytest.fixture
def dataset(titles: list[str]) -> Dataset:
    catalogue = Catalogue.from_sizes([f"i{n}" for n in range(N_A + N_B)], titles, ("a", "b"), (N_A, N_B))
    train = Histories.from_lists([[1], [8], [2, 9], [3]], ["x", "y", "z", "w"])
    held_out = Histories.from_lists([[1, 8]], ["v"])
    return Dataset(catalogue, train, held_out, held_out)


@pytest.fixture
def names(tmp_path: Path, titles: list[str]) -> Path:
    path = tmp_path / "names.jsonl"
    records = [
        GeneratedNames("z", "b", (NEW[0], titles[9]), "g"),
        GeneratedNames("z", "a", (titles[0],), "g"),
        GeneratedNames("x", "b", (titles[12], NEW[1], NEW[0]), "g"),
    ]
    write_names(path, records)
    return path


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "titles.npy"
    np.save(path, np.arange(1.0, (N_A + N_B) * E + 1, dtype=np.float32).reshape(-1, E))
    return path


@pytest.fixture
def tiny() -> TinyModel:
    return make_tiny_model()


@pytest.fixture
def encoder(tmp_path: Path, tiny: TinyModel) -> Path:
    return write_encoder(tmp_path / "encoder", tiny)


def test_titles_are_looked_up_and_the_rest_encoded(
    names: Path, dataset: Dataset, matrix: Path, encoder: Path, tiny: TinyModel, tmp_path: Path
) -> None:
    save_dataset(dataset, tmp_path / "dataset")
    output, told = tmp_path / "new" / "names.npz", []
    result = embed_names(
        names,
        tmp_path / "dataset",
        output,
        encoder=encoder,
        titles=matrix,
        progress=lambda *done: told.append(done),
    )
    assert (result.n_users, result.n_names, result.n_distinct, result.n_encoded) == (3, 6, 5, 2)
    assert told == [(2, 2)]
    found = load_embedded_names(output, dataset)
    table = np.load(matrix)
    pan, soup = tiny.vectors(NEW[:2], max_length=PLACES)
    expected = [[table[12], soup, pan], [table[0]], [pan, table[2]]]  # of two rows with a title, the first
    assert found.users.tolist() == [0, 2, 2]
    assert found.domains.tolist() == [1, 0, 1]
    assert len(found) == 3
    for entry, vectors in enumerate(expected):
        np.testing.assert_allclose(found.names_of(entry), vectors, atol=2e-6)
    assert found.text.shape == (5, E)  # a name is there once


def test_without_a_matrix_everything_is_encoded(
    names: Path, dataset: Dataset, encoder: Path, tiny: TinyModel, titles: list[str], tmp_path: Path
) -> None:
    result = embed_names(names, dataset, tmp_path / "names.npz", encoder=encoder)
    assert result.n_encoded == 5
    found = load_embedded_names(tmp_path / "names.npz", dataset)
    expected = tiny.vectors([titles[12], NEW[1], NEW[0]], max_length=PLACES)
    np.testing.assert_allclose(found.names_of(0), expected, atol=2e-6)


def test_an_encoder_is_needed_only_for_names_that_are_no_titles(
    names: Path, dataset: Dataset, matrix: Path, titles: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "names.npz"
    with pytest.raises(UsageError, match=r"2 of 5 names are no title of the catalogue, such as 'a of soup '"):
        embed_names(names, dataset, output, titles=matrix)
    with pytest.raises(UsageError, match="name an encoder folder, a matrix of title embeddings, or both"):
        embed_names(names, dataset, output)
    assert not output.exists()
    write_names(names, [GeneratedNames("y", "a", (titles[1], titles[0]), "g")])
    # the encoder folder is not even opened
    result = embed_names(names, dataset, output, titles=matrix, encoder=tmp_path / "nowhere")
    assert result.n_encoded == 0
    found = load_embedded_names(output, dataset)
    assert np.array_equal(found.names_of(0), np.load(matrix)[[1, 0]])


def test_a_title_without_an_embedding_is_encoded(
    names: Path,
    dataset: Dataset,
    matrix: Path,
    encoder: Path,
    tiny: TinyModel,
    titles: list[str],
    tmp_path: Path,
) -> None:
    table = np.load(matrix)
    table[12] = 0
    np.save(matrix, table)
    assert embed_names(names, dataset, tmp_path / "n.npz", encoder=encoder, titles=matrix).n_encoded == 3
    found = load_embedded_names(tmp_path / "n.npz", dataset)
    np.testing.assert_allclose(
        found.names_of(0)[0], tiny.vectors([titles[12]], max_length=PLACES)[0], atol=2e-6
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (GeneratedNames("nobody", "b", ("soup",), "g"), "user 'nobody' is no train user"),
        (GeneratedNames("x", "c", ("soup",), "g"), "user 'x': no domain 'c', there are 'a' and 'b'"),
    ],
)
def test_names_of_others_are_refused(
    names: Path, dataset: Dataset, encoder: Path, tmp_path: Path, record: GeneratedNames, message: str
) -> None:
    write_names(names, [record])
    with pytest.raises(DataError, match=message):
        embed_names(names, dataset, tmp_path / "names.npz", encoder=encoder)


def test_matrix_and_encoder_must_fit(names: Path, dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "titles.npy", np.ones((N_A + N_B, E + 1), dtype=np.float32))
    with pytest.raises(DataError, match=f"{E + 1} values a title, but .* gives {E}"):
        embed_names(names, dataset, tmp_path / "n.npz", encoder=encoder, titles=tmp_path / "titles.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(text=a["text"].astype(np.float64)), "'text' is float64 with 2 axes"),
        (lambda a: a.update(users=a["users"][:-1]), "2 users, 3 domains and 4 offsets do not fit"),
        (lambda a: a["offsets"].__setitem__(1, 0), "offsets must rise from 0 to 6"),
        (lambda a: a["index"].__setitem__(0, 5), "'index' runs from 0 to 5, expected 0 to 4"),
        (lambda a: a["users"].__setitem__(0, -1), "'users' runs from -1 to 2, expected 0 to 3"),
        (lambda a: a["domains"].__setitem__(0, 2), "'domains' runs from 0 to 2"),
        (lambda a: a["text"].__setitem__(0, np.nan), "not finite"),
        (lambda a: a.pop("index"), "not a file of embedded names"),
        (lambda a: a.pop("description"), "not a file of embedded names"),
        (lambda a: a.update(description=np.frombuffer(b"{}", np.uint8)), "not a llmcdsr-embedded-names file"),
        (lambda a: a.update(users=np.array([{}])), "not a file of embedded names: .*pickle"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(
    names: Path,
    dataset: Dataset,
    encoder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    path = tmp_path / "names.npz"
    embed_names(names, dataset, path, encoder=encoder)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=rf"names\.npz: .*{message}"):
        load_embedded_names(path, dataset)


def test_a_file_of_other_users_is_refused(
    names: Path, dataset: Dataset, encoder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "names.npz"
    embed_names(names, dataset, path, encoder=encoder)
    train = Histories(dataset.train.rows, dataset.train.offsets, ["x", "z", "y", "w"])
    other = Dataset(dataset.catalogue, train, dataset.valid, dataset.test)
    with pytest.raises(DataError, match="other train users"):
        load_embedded_names(path, other)
    path.write_text("text")
    with pytest.raises(DataError, match="not a file of embedded names"):
        load_embedded_names(path, dataset)
    with pytest.raises(DataError, match="cannot be read"):
        load_embedded_names(tmp_path / "none.npz", dataset)
