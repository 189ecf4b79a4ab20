"""Stage `evaluate`: measure models beside baselines on a split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcdsr_lite.bundle.folder import CONFIG, ONNX, read_bundle
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.model.backends import OnnxBackend
from llmcdsr_tools.data.dataset import Dataset, Positions, Split
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.evaluation.baselines import baselines
from llmcdsr_tools.evaluation.measures import Measured, measure
from llmcdsr_tools.evaluation.official import open_model
from llmcdsr_tools.evaluation.scorers import ModelScorer, Named, Scorer, bundle_scorers
from llmcdsr_tools.run_folder import MEAN

BASELINES = ("popularity", "next5", "repeat+pop", "item cosine")


def evaluate(
    models: Sequence[str | Path],
    dataset: str | Path,
    split: Split = "test",
    positions: Positions | None = None,
    *,
    best_for: str = MEAN,
    pseudo: bool = True,
) -> Measured:
    """Measure models, and the baselines, on the held-out histories of a split.

    Parameters
    ----------
    models : sequence of str or Path
        Folders of bundles or of training runs. One is called "model"; several go by their folders' names.
    dataset : str or Path
        Data set folder.
    split : {"valid", "test"}
    positions : {"last", "every"}, optional
        Of validation every, of test the last, unless it is said.
    best_for : str
        Which of a run's models.
    pseudo : bool
        Whether bundles recall pseudo items as their settings have it.

    Returns
    -------
    Measured

    Raises
    ------
    DataError, TrainingError, BundleError
        If a model or the data set cannot be read, or they do not belong together.
    UsageError
        If there is no model, or two folders have one name.
    """
    folders = list(map(Path, models))
    dataset = Path(dataset)
    names = [folder.resolve().name for folder in folders]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"models: expected folders of different names, found {', '.join(names) or 'none'}")
    data = load_dataset(dataset)
    scorers: list[Scorer] = []
    for folder, name in zip(folders, names, strict=True):
        found = open_scorers(folder, data, best_for=best_for, folder=dataset, pseudo=pseudo)
        scorers += found if len(folders) == 1 else [Named(name, found[0])]
    wanted = positions or ("every" if split == "valid" else data.test_positions)
    return measure([*scorers, *baselines(data)], data, split, wanted)


def open_scorers(
    model: Path, data: Dataset, *, best_for: str = MEAN, folder: Path | None = None, pseudo: bool = True
) -> tuple[Scorer, ...]:
    """A bundle as it answers and its model alone, or the model of a run; see `open_model`."""
    backend, item_vectors = open_model(model, data, best_for, folder=folder)
    if not (model / CONFIG).exists():
        return (ModelScorer(backend, item_vectors),)
    bundle = read_bundle(model)
    backend = OnnxBackend(model / ONNX, bundle.item_vectors, bundle.parameters.config.max_length, 1)
    return bundle_scorers(bundle, backend, pseudo=pseudo)
