"""Exact and approximate search as the catalogue grows, and loading a bundle of a million items.

Makes large catalogues of a smaller one: every item of a bundle (``--like``; without it a random one of
36,298 items, `random_bundle`) comes in many variants, whose vectors have a cosine of about 0.84
with each other; half of the items are in each domain, and the model stays as it is. Then it builds the graphs
(`llmcdsr_tools.index`) and prints for each size the median of a request, the recall@10 against exact search,
the time of `Recommender.load` and the resident memory::

    OPENBLAS_NUM_THREADS=1 python benchmarks/large_catalogue.py work/large --items 36000 100000 300000

``--unlike`` draws all items at random instead, in more and more clusters that have nothing to do with each
other: far from what a catalogue looks like, and what approximate search cannot do.

A bundle that is in the folder already is not made again: building the graph of a million items takes a core
about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import ITEM_VECTORS, Bundle, read_bundle, write_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.search.hnsw_graph import graph_fault
from llmcdsr_tools.export.onnx_graph import build_onnx
from llmcdsr_tools.index import IndexSettings, draw_histories, index
from random_bundle import write_random_bundle

N_USERS = 300
HISTORY = 20
SPREAD = 0.4  # of the variants around an item: a cosine of sqrt(1 - 0.16) with it
_CHUNK = 1 << 16


def write_variants(base: Path, n_items: tuple[int, int], output: Path, seed: int = 0) -> None:
    """Write a bundle whose items are variants of those of another one.

    A variant is ``sqrt(1 - SPREAD²) v + SPREAD |v| n``, n of length 1, distributed over directions as the
    item vectors are.
    """
    found = read_bundle(base)
    rng = np.random.default_rng(seed)
    config = replace(found.parameters.config, n_items=sum(n_items))
    table = np.zeros((config.n_items + 1, config.hidden), np.float32)
    counts = np.zeros(config.n_items + 1, np.int64)
    mixing = np.linalg.cholesky(np.cov(found.item_vectors[1:].T)).T
    start = 1
    for domain, size in zip(found.catalogue.domains, n_items, strict=True):
        for first in range(start, start + size, _CHUNK):
            last = min(first + _CHUNK, start + size)
            rows = rng.integers(domain.start, domain.stop, last - first)
            noise = rng.normal(size=(last - first, config.hidden)) @ mixing
            lengths = np.linalg.norm(found.item_vectors[rows], axis=1, keepdims=True)
            noise *= lengths / np.linalg.norm(noise, axis=1, keepdims=True)
            table[first:last] = np.sqrt(1 - SPREAD**2) * found.item_vectors[rows] + SPREAD * noise
            counts[first:last] = rng.poisson(found.item_counts[rows])
        start += size
    ids = [f"{name}{n}" for name, size in zip("ab", n_items, strict=True) for n in range(size)]
    catalogue = Catalogue.from_sizes(ids, [f"Item {one}" for one in ids], ("a", "b"), n_items)
    parameters = SASRecParameters(config, table, found.parameters.dense)
    onnx_model = build_onnx(parameters, ITEM_VECTORS, 128)  # behind the header that np.save writes
    bundle = Bundle(catalogue, parameters, counts, {"variants": True})
    write_bundle(bundle, output, onnx_model=onnx_model, model_card="# Variants of items, for benchmarks\n")


def prepare(folder: Path, n_items: int, like: Path | None, unlike: bool, settings: IndexSettings) -> Path:
    """The bundle of that size with its graphs, made if it is not there."""
    bundle = folder / f"items-{n_items}"
    sizes = (n_items // 2, n_items - n_items // 2)
    if not (bundle / "config.json").exists() and unlike:
        write_random_bundle(bundle, sizes, hidden=64)
    elif not (bundle / "config.json").exists():
        if like is None and not (folder / "base" / "config.json").exists():
            write_random_bundle(folder / "base", (8_661, 27_637), hidden=64)
        write_variants(like or folder / "base", sizes, bundle)
    if "index" not in json.loads((bundle / "config.json").read_text()):
        begun = time.perf_counter()
        index(bundle, settings=settings)
        print(f"{n_items:,} items: graph built and measured in {time.perf_counter() - begun:.0f} s")
    return bundle


def requests(bundle: Path) -> list[tuple[list[str], str]]:
    """Histories of 20 items, other ones than the ef_values were chosen on, and a domain to ask for."""
    found = read_bundle(bundle)
    rng = np.random.default_rng(12345)
    ids, domains = found.catalogue.ids, found.catalogue.domains
    longer = [h for h in draw_histories(found, 8 * N_USERS, rng) if len(h) >= HISTORY][:N_USERS]
    return [([ids[row - 1] for row in h[:HISTORY]], domains[n % 2].name) for n, h in enumerate(longer)]


def resident() -> dict[str, int]:
    """Resident memory in MB: of its own, and of mapped files, which the system may take back."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "RssAnon", "RssFile")}


def measure(bundle: Path, search: str, asked: list[tuple[list[str], str]]) -> dict[str, Any]:
    """Load, ask for one user after another, for one domain and for both."""
    begun = time.perf_counter()
    recommender = Recommender.load(bundle, search=search)  # type: ignore[arg-type]
    loaded = time.perf_counter() - begun
    result: dict[str, Any] = {"load": loaded, "memory": resident()}
    for kind in ("domain", "both"):
        answers, times = [], []
        for history, domain in [*asked[:20], *asked]:  # the first to warm up
            begun = time.perf_counter()  # once each: a second time finds the vectors in the processor's cache
            found = recommender.recommend(history, domain=domain if kind == "domain" else None)
            times.append(time.perf_counter() - begun)
            answers.append([item.id for item in found])
        milliseconds = np.array(times[20:]) * 1e3
        result[kind] = {
            "p50": float(np.percentile(milliseconds, 50)),
            "p99": float(np.percentile(milliseconds, 99)),
            "best": float(milliseconds.min()),
            "answers": answers[20:],
        }
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def child(bundle: Path, search: str) -> dict[str, Any]:
    """`measure` in a process of its own, so that memory is that of one recommender."""
    command = [sys.executable, __file__, str(bundle.parent), "--child", bundle.name, search]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(bundle: Path) -> None:
    found = {search: child(bundle, search) for search in ("exact", "hnsw")}
    for search, result in found.items():
        print(
            f"  {search}: load {result['load']:.2f} s, resident {result['memory']['VmRSS']} MB "
            f"({result['memory']['RssFile']} MB of it mapped files), peak {result['peak']} MB"
        )
        for kind, name in (("domain", "one domain"), ("both", "both domains")):
            one = result[kind]
            pairs = zip(one["answers"], found["exact"][kind]["answers"], strict=True)
            recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs])
            print(
                f"    {name}: p50 {one['p50']:.3f} ms, p99 {one['p99']:.3f} ms, best {one['best']:.3f} ms, "
                f"recall@10 {recall:.4f}"
            )


def report_load(bundle: Path) -> None:
    """What reading takes, and checking the graph of it."""
    begun = time.perf_counter(), time.process_time()
    read = read_bundle(bundle)
    spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
    print(f"  read_bundle: {spent[0]:.2f} s, {spent[1]:.2f} s of CPU")
    assert read.index is not None
    begun = time.perf_counter(), time.process_time()
    assert graph_fault(read.index.items.graph, read.catalogue.domains) is None
    print(
        f"  of it to check the graph: {time.perf_counter() - begun[0]:.2f} s, "
        f"{time.process_time() - begun[1]:.2f} s of CPU; search ef_values {read.index.items.ef_search}, "
        f"of both domains at once {read.index.items.ef_search_together}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the bundles are kept")
    parser.add_argument("--items", type=int, nargs="+", default=[36_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--like", type=Path, help="bundle whose items there are variants of")
    parser.add_argument("--unlike", action="store_true", help="draw all items at random instead")
    parser.add_argument("--m", type=int, default=32)
    parser.add_argument("--recall", type=float, default=0.96)
    parser.add_argument("--threads", type=int, default=1, help="of building")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, search = arguments.child
        bundle = arguments.folder / name
        print(json.dumps(measure(bundle, search, requests(bundle))))
        return
    settings = IndexSettings(arguments.links, threads=arguments.threads, recall=arguments.recall)
    for n_items in arguments.items:
        bundle = prepare(arguments.folder, n_items, arguments.like, arguments.unlike, settings)
        print(f"{n_items:,} items, {sum(f.stat().st_size for f in bundle.iterdir()) / 1e6:.0f} MB on disk")
        report_load(bundle)
        report(bundle)


if __name__ == "__main__":
    main()
