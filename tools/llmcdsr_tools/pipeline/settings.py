"""What `fit` is told: one dataclass a table of its configuration, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmcdsr_lite.encoder import DEFAULT_BATCH_SIZE
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.generate.language_model import ServerSettings
from llmcdsr_tools.generate.stage import GenerateSettings
from llmcdsr_tools.ingest.stage import IngestSettings
from llmcdsr_tools.neighbours import N_NAMES, N_NEIGHBORS
from llmcdsr_tools.pretrain.stage import PretrainSettings
from llmcdsr_tools.run import MEAN
from llmcdsr_tools.train.stage import TrainSettings
from llmcdsr_tools.word_vectors import DIMENSION

Generator = Literal["neighbours", "llm", "file", "none"]


@dataclass(frozen=True)
class IngestTable:
    """``[ingest]``: `source`, `items`, and the fields of `IngestSettings` beside them."""

    source: Path
    items: Path | None
    settings: IngestSettings


@dataclass(frozen=True)
class EmbedTable:
    """``[embed]``: how titles become vectors.

    Parameters
    ----------
    encoder : Path, optional
        Encoder folder; without one, `word_vectors` makes the vectors from the titles' words.
    prompt, max_length, batch_size
        Of the encoder, see `embed`.
    dimension : int
        Of the word vectors.
    """

    encoder: Path | None = None
    prompt: str | None = None
    max_length: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    dimension: int = DIMENSION


@dataclass(frozen=True)
class NamesTable:
    """``[names]``: where names come from, of items of domains that users lack.

    Parameters
    ----------
    generator : {"neighbours", "llm", "file", "none"}
        Names from similar users, from the language model that ``[generate]`` names, from a file, or none.
    file : Path, optional
        A names file, such as `generate` writes.
    n_neighbors, n_names : int
        Of the generator ``neighbours``.
    limit : int, optional
        Ask the language model for so many users, drawn by seed.
    prompts : Path, optional
        Prompts in place of the shipped ones.
    allow_failures : bool
        Go on although users have no answer; if not, the pipeline stops there, and asks again when it is
        started again.
    """

    generator: Generator = "none"
    file: Path | None = None
    n_neighbors: int = N_NEIGHBORS
    n_names: int = N_NAMES
    limit: int | None = None
    prompts: Path | None = None
    allow_failures: bool = False

    def __post_init__(self) -> None:
        if (self.generator == "file") != (self.file is not None):
            raise DataError("key 'file' goes with generator = 'file', and only with it")


@dataclass(frozen=True)
class ExportTable:
    """``[export]``: what the bundle is made of.

    Parameters
    ----------
    best_for : str
        The epoch that was best on the mean of all domains ("mean"), or for the domain of that name.
    recall : bool
        Whether the bundle carries the recall network, and what is done with pseudo items is chosen.
    seed : int
        Of what is drawn to learn the mix.
    """

    best_for: str = MEAN
    recall: bool = True
    seed: int = 0


@dataclass(frozen=True)
class FitConfig:
    """Everything that `fit` is told.

    Parameters
    ----------
    path : Path
        The file it was read from.
    text : str
        Its content.
    work : Path
        Folder of the stages' outputs.
    bundle : Path
        The bundle to write.
    report : Path
        The report to write.
    threads : int
        Of matrix products and of the encoder. Another number may change the last bits of the result.
    text_initialization : bool
        Whether `train` starts the items from the titles.
    server : ServerSettings or None
        Of the language model, given with the generator ``llm`` and only with it.
    members : int
        Models to train.
    distill : bool
        Whether one more learns from them, and is the bundle's.
    ingest, embed, names, generate, pretrain, train, export
        The tables.
    """

    path: Path
    text: str
    work: Path
    bundle: Path
    report: Path
    ingest: IngestTable
    threads: int = 1
    text_initialization: bool = True
    embed: EmbedTable = field(default_factory=EmbedTable)
    names: NamesTable = field(default_factory=NamesTable)
    server: ServerSettings | None = None
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    members: int = 1
    distill: bool = False
    export: ExportTable = field(default_factory=ExportTable)
