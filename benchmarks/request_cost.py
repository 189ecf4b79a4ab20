"""What the mix and members cost a request: ``python benchmarks/request_cost.py BUNDLE [BUNDLE ...]``.

Each bundle answers with its mix and without, in turns in one process and thread, for histories of 20 items
drawn by popularity: milliseconds (p50) of a request, and ratios: of the mix to the model alone, and of each
model alone to the first bundle's. Give a bundle of one model, then one of members.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import ONNX, read_bundle
from llmcdsr_lite.model.backends import OnnxBackend

LENGTH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    recommenders: list[tuple[str, Recommender]] = []
    for folder in arguments.bundles:
        bundle = read_bundle(folder)
        backend = OnnxBackend(folder / ONNX, bundle.item_vectors, bundle.parameters.config.max_length, 1)
        alone = replace(bundle, mix=(), next_counts=None)
        recommenders += [(f"{folder} alone", Recommender(alone, backend))]
        recommenders += [(f"{folder} mix", Recommender(bundle, backend))]
    catalogue, counts = bundle.catalogue, bundle.item_counts[1:]
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(catalogue), (arguments.requests, LENGTH), p=counts / counts.sum())
    histories = [[catalogue.ids[place] for place in row] for row in drawn.tolist()]
    for domain in (None, *(d.name for d in catalogue.domains)):
        times = np.empty((arguments.requests, len(recommenders)))
        for i, history in enumerate(histories):
            for j in rng.permutation(len(recommenders)).tolist():
                start = time.perf_counter()
                recommenders[j][1].recommend(history, domain=domain, k=10)
                times[i, j] = time.perf_counter() - start
        p50 = np.median(times[len(times) // 10 :], axis=0) * 1000  # the first warm up
        for j, (name, _) in enumerate(recommenders):
            beside = f"{p50[j] / p50[j - 1]:.2f} of alone" if j % 2 else f"{p50[j] / p50[0]:.2f} of the first"
            print(f"{domain or 'both domains':<16}{name:<44}{p50[j]:8.3f} ms   {beside}")


if __name__ == "__main__":
    main()
