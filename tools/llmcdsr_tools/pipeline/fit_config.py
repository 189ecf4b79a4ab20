"""What `fit` is told: one dataclass a table of its configuration, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmcdsr_lite.errors import DataError, SettingsError
from llmcdsr_lite.text.encoder import DEFAULT_BATCH_SIZE
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.generate.generate_settings import GenerateSettings, ServerSettings
from llmcdsr_tools.neighbours import N_NAMES, N_NEIGHBORS
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.run_folder import MEAN
from llmcdsr_tools.setting_fields import Count, check_settings
from llmcdsr_tools.train.recipes import Recipe, TrainSettings
from llmcdsr_tools.word_vectors import DIMENSION

Generator = Literal["neighbours", "llm", "file", "none"]


@dataclass(frozen=True)
class IngestTable:
    """``[ingest]``: what is read; the fields of `IngestSettings` stand beside them.

    Parameters
    ----------
    source : Path
        A folder in the official layout, or an interactions file.
    items : Path, optional
        Items file, which an interactions file needs.
    """

    source: Path
    items: Path | None = None


@dataclass(frozen=True)
class TrainTable:
    """``[train]``: what stands beside the fields of `TrainSettings`.

    Parameters
    ----------
    recipe : {"best", "official"}
        What the fields that are left out are set to.
    text_initialization : bool, optional
        Start the items from the titles; so by default unless they start from pre-training.
    members : int
        Models to train, with seeds of their own.
    distill : bool
        Train one more model on their scores, which the bundle gets in place of them.
    refit : bool, optional
        When all is measured, train again on all histories, held-out ones too; the bundle has that model. By
        default where the split is by time, unless there are names or pre-trained items.
    start_from : Path, optional
        Bundle or run whose model training goes on from, on a catalogue that may have changed.
    """

    recipe: Recipe = "best"
    text_initialization: bool | None = None
    members: Count = 1
    distill: bool = False
    refit: bool | None = None
    start_from: Path | None = None

    def __post_init__(self) -> None:
        check_settings(self)


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
    source : str
        What it was read from, or the call that made it.
    text : str
        Its content.
    work : Path
        Folder of the stages' outputs.
    bundle, report : Path, optional
        What to write; in the working folder if not given.
    data : IngestTable or Dataset
        What is read, or was.
    encoder : object, optional
        From Python, in place of an encoder folder, see `embed`.
    threads : int
        Of matrix products and of the encoder. Another number may change the last bits of the result.
    text_initialization : bool
        Whether `train` starts the items from the titles.
    members : int
        Models to train.
    distill : bool
        Whether one more learns from them, and is the bundle's.
    refit : bool, optional
        Whether the bundle's model is trained again on all histories, see `refits`.
    start_from : Path, optional
        What training goes on from; `train` has its sizes.
    server : ServerSettings or None
        Of the language model, given with the generator ``llm`` and only with it.
    ingest : IngestSettings
    embed, names, generate, pretrain, train, export
        The tables.

    Raises
    ------
    SettingsError
        If settings do not go together.
    """

    source: str
    text: str
    work: Path
    data: IngestTable | Dataset
    bundle: Path | None = None
    report: Path | None = None
    ingest: IngestSettings = field(default_factory=IngestSettings)
    encoder: Any = None
    threads: Count = 1
    text_initialization: bool = True
    members: Count = 1
    distill: bool = False
    refit: bool | None = None
    start_from: Path | None = None
    embed: EmbedTable = field(default_factory=EmbedTable)
    names: NamesTable = field(default_factory=NamesTable)
    server: ServerSettings | None = None
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    export: ExportTable = field(default_factory=ExportTable)

    def __post_init__(self) -> None:
        check_settings(self)
        generator = self.names.generator
        if self.pretrain.hidden != self.train.hidden:
            raise SettingsError(
                f"[pretrain] hidden is {self.pretrain.hidden}, [train] hidden is {self.train.hidden}: the "
                "recall network needs one space for both; leave it out of [pretrain]"
            )
        if (generator == "llm") != (self.server is not None):
            raise SettingsError("table [generate] goes with [names] generator = 'llm', and only with it")
        if generator == "llm" and self.embed.encoder is None and self.encoder is None:
            raise SettingsError(
                "names of a language model are no titles, they need an encoder; name its folder in [embed] "
                "encoder"
            )
        if generator in ("llm", "file") and (self.embed.prompt, self.embed.max_length) != (None, None):
            raise SettingsError(
                "[embed] prompt and max_length hold for titles alone; names would be embedded otherwise, so "
                "leave them out with [names] generator = 'llm' or 'file'"
            )
        if self.text_initialization and self.train.pretrained_items:
            raise SettingsError("[train]: items start from the titles or from pre-training, not from both")
        if self.members > 1 and (generator != "none" or self.train.pretrained_items):
            raise SettingsError("[train] members is for training without names and pre-trained items")
        if self.distill and (self.members == 1 or self.train.loss != "sampled-softmax"):
            raise SettingsError("[train] distill needs two members or more, and the loss sampled-softmax")
        if self.refit and not self._can_refit:
            raise SettingsError("[train] refit is for training without names and pre-trained items")
        if generator == "none" and self.train.inner_optimizer not in ("auto", "none"):
            raise SettingsError(
                f"[train] inner_optimizer is {self.train.inner_optimizer!r}, which needs names; [names] "
                "generator is 'none'"
            )

    @property
    def _can_refit(self) -> bool:
        return self.names.generator == "none" and not self.train.pretrained_items

    def refits(self, data: Dataset) -> bool:
        """Whether the model is trained again on all histories; if unsaid, where the newest were held out."""
        by_time = data.test_positions == "every"
        return self._can_refit and by_time if self.refit is None else self.refit
