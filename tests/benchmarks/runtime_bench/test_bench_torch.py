"""The PyTorch baseline against the formulas, where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.bundle.folder import Bundle
from runtime_bench.job import Job

pytest.importorskip("torch", reason="PyTorch, a baseline of the benchmark, is not installed")


@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_it_ranks_by_the_formulas(
    bundle_folder: Path,
    bundle_data: Bundle,
    naive_representation: Callable[[list[int]], npt.NDArray[np.float64]],
    domain: str | None,
) -> None:
    from runtime_bench.torch_baseline import TorchSubject

    subject = TorchSubject(Job("torch", str(bundle_folder), "", []))
    catalogue = bundle_data.catalogue
    histories = [["f1"], ["k3", "f2", "k4"], [f"k{n}" for n in range(9)]]
    ids, scores = subject.recommend_batch(histories, domain)
    for user, history in enumerate(histories):
        rows = [catalogue.row(item) for item in history]
        every = bundle_data.item_vectors @ naive_representation(rows)
        inside = range(1, len(every)) if domain is None else _rows(bundle_data, domain)
        wanted = sorted((-every[row], row) for row in inside if row not in rows)[:10]
        assert [catalogue.row(item) for item in ids[user]][: len(wanted)] == [row for _, row in wanted]
        np.testing.assert_allclose(scores[user][: len(wanted)], [-score for score, _ in wanted], rtol=1e-4)
        alone = subject.recommend(history, domain)
        assert [item for item, _ in alone][: len(wanted)] == ids[user][: len(wanted)]


def _rows(bundle: Bundle, name: str) -> range:
    domain = bundle.catalogue.domain(name)
    return range(domain.start, domain.stop)
