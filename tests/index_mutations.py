"""Damage the index of a bundle, load it and search, for seed after seed.

``python index_mutations.py FOLDER FIRST LAST``. Runs in a process of its own, which must not crash. Hashes
are right (`read_index` is called after they were checked), so that only the checks of the structure stand
between the damage and hnswlib.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import read_bundle
from llmcdsr_lite.bundle.index import ARRAYS, PREFIXES, read_index
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.search.hnsw import HnswSearch
from llmcdsr_lite.search.protocol import RowFilter

K = 4
FILES = tuple(f"{prefix}{array}.npy" for prefix in PREFIXES.values() for array in ARRAYS)
VALUES: tuple[Any, ...] = (-1, 0, 1, 3, 10**6, 2**40, 0.5, True, None, "1", [], {}, [1], [1, 2, 3], [0, -1])


def damage_bytes(content: bytearray, rng: np.random.Generator) -> None:
    """Change bytes anywhere, the header too; cut, or add some."""
    kind = rng.integers(5)
    if kind == 0:
        del content[int(rng.integers(len(content))) :]
    elif kind == 1:
        content += rng.bytes(int(rng.integers(1, 200)))
    else:
        last = 128 if kind == 2 else len(content)
        for place in rng.integers(0, last, rng.integers(1, 5)):
            content[place] = int(rng.integers(256))


def damage_array(array: npt.NDArray[Any], rng: np.random.Generator, n_rows: int) -> npt.NDArray[Any]:
    """Change numbers to others that look like rows or levels; shuffle, repeat or drop rows of the array."""
    array = array.copy()
    kind = rng.integers(7)
    if kind == 0:
        return array[: int(rng.integers(len(array)))]
    if kind == 1:
        return np.concatenate([array, array[: int(rng.integers(1, 9))]])
    if kind == 2:
        array[1:] = rng.permutation(array[1:])
    elif kind == 3:
        array[int(rng.integers(len(array)))] = 0
    elif kind == 4:
        array[int(rng.integers(len(array)))] = rng.integers(1, n_rows)
    else:
        for _ in range(int(rng.integers(1, 4))):
            place = tuple(rng.integers(0, n) for n in array.shape)
            array[place] = rng.integers(0, 256 if array.dtype == np.uint8 else n_rows + 2)
    return array


def damage_config(index: dict[str, Any], rng: np.random.Generator) -> None:
    part = index[("items", "recall")[rng.integers(2)]]
    holder, key = part, ("M", "ef_search", "measured", "ef_search_together")[rng.integers(4)]
    if rng.integers(6) == 0:
        holder, key = index, ("items", "recall")[rng.integers(2)]
    value = VALUES[rng.integers(len(VALUES))]
    if key == "ef_search" and rng.integers(2):
        value = rng.integers(0, 200, 2).tolist()
    holder[key] = value


def check_answers(search: HnswSearch, vectors: npt.NDArray[Any], stop: int, rng: np.random.Generator) -> None:
    users = rng.normal(size=(2, vectors.shape[1])).astype(np.float32)
    blocked = [rng.integers(1, stop, 3), rng.integers(1, stop, 2)]
    rows, scores = search.search(users, K, RowFilter(1, stop, blocked))
    assert rows.shape == scores.shape == (2, K)
    for user, found, values, forbidden in zip(users, rows.tolist(), scores, blocked, strict=True):
        assert len(set(found)) == K, found
        assert not set(found) & set(forbidden.tolist()), found
        assert all(1 <= row < stop for row in found), found
        np.testing.assert_allclose(values, vectors[found] @ user, atol=1e-4)
        assert (np.diff(values) <= 0).all()


def main(folder: Path, first: int, last: int) -> None:
    bundle = read_bundle(folder)
    description = json.loads((folder / "config.json").read_text())
    domains, stop = bundle.catalogue.domains, len(bundle.catalogue) + 1
    assert bundle.recall is not None
    vectors = {"items": bundle.item_vectors, "recall": np.asarray(bundle.recall.items)}
    counts = {"refused": 0, "answered": 0}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in FILES:
            shutil.copy(folder / file, work / file)
        for seed in range(first, last):
            print(seed, file=sys.stderr, flush=True)  # the last one is the one that crashed
            rng = np.random.default_rng(seed)
            changed = copy.deepcopy(description)
            file = FILES[rng.integers(len(FILES))]
            kind = rng.integers(10)
            if kind == 0:
                damage_config(changed["index"], rng)
            elif kind < 4:
                content = bytearray((folder / file).read_bytes())
                damage_bytes(content, rng)
                (work / file).write_bytes(content)
            else:
                np.save(work / file, damage_array(np.load(folder / file), rng, stop))
            try:
                index = read_index(work, changed, domains, with_recall=True)
                assert index is not None
                for part, table in vectors.items():
                    graph = getattr(index, part)
                    if graph is not None and (kind == 0 or file.startswith(PREFIXES[part])):
                        check_answers(HnswSearch(table, domains, 1, graph), table, stop, rng)
                counts["answered"] += 1
            except BundleError as error:
                if not str(error).startswith(str(work)):
                    raise
                counts["refused"] += 1
            shutil.copy(folder / file, work / file)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
