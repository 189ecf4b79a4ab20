"""The shipped demo model: ``make demo-model`` makes it from nothing.

The invented world (`world`) goes through the whole pipeline (`fit`, as ``fit.toml`` says) to the
bundle ``models/demo`` with sample histories beside it.

What is reproduced: on one kind of processor every byte, in every call and with any number of threads (the
pipeline computes with one). On another kind OpenBLAS takes other kernels, which round otherwise; after some
twenty epochs vectors differ by up to 0.01, and so may a choice on validation that is close. With the kernels
fixed (``OPENBLAS_CORETYPE=Haswell``, as ``make demo-model`` has it) only last bits of ``recall_names.npy``
have been seen to differ, which NumPy's own vector instructions round.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from demo_world.world import sample_histories, write_demo_world
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_tools.pipeline.config_file import load_config
from llmcdsr_tools.pipeline.fitting import FitObserver, FitResult, fit

BUNDLE = "demo"
HISTORIES = "demo-histories.jsonl"
CONFIG = "fit.toml"


def make_demo_model(
    folder: Path,
    *,
    n_users: int = 6000,
    report: Path | None = None,
    overwrite: bool = False,
    observer: FitObserver | None = None,
) -> FitResult:
    """Invent the demo world and run the pipeline on it.

    Parameters
    ----------
    folder : Path
        Gets the bundle ``demo`` and the file ``demo-histories.jsonl``.
    n_users : int
        Users of the world.
    report : Path, optional
        Where to keep the report; it is thrown away if not given.
    overwrite : bool
        Replace a bundle that is there.
    observer : FitObserver, optional
        Told how the pipeline goes.

    Returns
    -------
    FitResult

    Raises
    ------
    DataError
        If the bundle is there and must not be overwritten.
    """
    bundle = folder.resolve() / BUNDLE  # the configuration's own folder is another one
    if bundle.exists() and not overwrite:
        raise DataError(f"{bundle}: exists already; choose another folder or ask for it to be overwritten")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_demo_world(work, n_users=n_users)
        path = work / "fit.toml"
        path.write_text(Path(__file__).with_name(CONFIG).read_text(encoding="utf-8"), encoding="utf-8")
        config = load_config(path)
        kept = config.report if report is None else report.resolve()
        result = fit(replace(config, bundle=bundle, report=kept), observer=observer)
    with atomic_file(folder / HISTORIES) as temporary:
        lines = (json.dumps(sample._asdict()) + "\n" for sample in sample_histories())
        temporary.write_text("".join(lines), encoding="utf-8")
    return result
