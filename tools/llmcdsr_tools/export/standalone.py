"""Export of a bundle as one ONNX file, compared with `Recommender` before it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import checker

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import BundleError, DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.session import OnnxSession
from llmcdsr_tools.export.standalone_graph import INPUTS, OUTPUTS, build_standalone

AGREEMENT = 1e-4  # largest allowed difference of scores, relative to the largest score
MAX_BYTES = 2**31 - 1  # of a message of protocol buffers
_K = 10


def export_standalone(bundle: str | Path, output: str | Path, *, overwrite: bool = False) -> None:
    """Write a bundle as one ONNX file: weights, mix of experts and search; see docs/format.md.

    Parameters
    ----------
    bundle : str or Path
        Folder of a bundle.
    output : str or Path
        The file to write.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    BundleError
        If the bundle is damaged, or the graph does not answer as `Recommender` does.
    DataError
        If the file is there and must not be overwritten, cannot be written, or would be larger than an ONNX
        file can be.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    contents = read_bundle(Path(bundle))
    model = build_standalone(contents)
    if len(model) > MAX_BYTES:
        raise DataError(
            f"{output}: would have {len(model):,} bytes, more than the {MAX_BYTES:,} of one ONNX file; use "
            "the bundle itself, whose item vectors are in a file of their own"
        )
    checker.check_model(model, full_check=True)
    _compare(model, contents)
    with atomic_file(output) as temporary:
        temporary.write_bytes(model)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a file that is there, unless it may be overwritten: before work that takes long.

    Raises
    ------
    DataError
        If it is there.
    """
    if output.exists() and not overwrite:
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")


def run_standalone(
    session: OnnxSession,
    history: npt.NDArray[np.int64],
    excluded: npt.NDArray[np.int64],
    domains: list[int],
    k: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows and scores that a session of a standalone graph answers with."""
    given = (history, excluded, np.array(domains, dtype=np.int64), np.array([k]))
    inputs = {tensor.name: value for tensor, value in zip(INPUTS, given, strict=True)}
    rows, scores = session.run([tensor.name for tensor in OUTPUTS], inputs)
    return rows, scores


def _compare(model: bytes, bundle: Bundle) -> None:
    """Refuse a graph that gives other scores than `Recommender`."""
    session = OnnxSession(model, 1)
    recommender = Recommender(bundle, NumpyBackend(bundle.parameters), "exact")
    ids, n_domains = bundle.catalogue.ids, len(bundle.catalogue.domains)
    choices = [*([index] for index in range(n_domains)), list(range(n_domains))]
    for history in _sample(bundle):
        for domains in choices:
            names = [recommender.domains[index] for index in domains]
            expected = recommender.recommend(
                [ids[row - 1] for row in history], domain=names, k=_K, exclude_seen=True
            )
            _, scores = run_standalone(session, history, history, domains, _K)
            wanted = np.array([item.score for item in expected], dtype=np.float32)
            agree = scores.shape == wanted.shape and np.allclose(
                scores, wanted, rtol=0, atol=AGREEMENT * float(np.abs(wanted).max(initial=0))
            )
            if not agree:
                raise BundleError(
                    f"the standalone graph gives the scores {scores.tolist()} for the item rows "
                    f"{history.tolist()} and the domains {names}, expected {wanted.tolist()}; "
                    "it is not written"
                )


def _sample(bundle: Bundle) -> Iterator[npt.NDArray[np.int64]]:
    """Histories of items of all domains and of each alone, from none to more than the model looks back on."""
    rng = np.random.default_rng(0)
    ranges = [(1, len(bundle.catalogue) + 1), *((d.start, d.stop) for d in bundle.catalogue.domains)]
    for start, stop in ranges:
        for length in (0, 1, 5, bundle.parameters.config.max_length + 3):
            yield rng.integers(start, stop, length)
