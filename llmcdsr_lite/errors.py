"""The exceptions that this package raises on purpose, one tree under `LlmcdsrError`.

Every message names the file and the line or field, what was found, what was expected, and where it
helps, what to do. The command line prints the message alone and exits with status 1, or 2 where the fault
is one of usage.
"""

from __future__ import annotations


class LlmcdsrError(Exception):
    """Base of all errors raised on purpose by `llmcdsr_lite` and `llmcdsr_tools`."""


class DataError(LlmcdsrError):
    """An input file (interactions, items, histories, a data set folder) is not as it must be."""


class BundleError(LlmcdsrError):
    """A bundle is incomplete, damaged, unsafe, or of a format that this version does not read."""


class UnknownItemError(LlmcdsrError, KeyError):
    """An item id is not in the catalogue."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class TrainingError(LlmcdsrError):
    """Training cannot start or go on: a foreign checkpoint, a loss that is not finite, unusable settings."""


class GenerationError(LlmcdsrError):
    """A language model refuses or cannot be reached, or answers on disk are of another run."""


class WorkerError(LlmcdsrError):
    """A process that was started to share the work died or failed."""


class MissingDependencyError(LlmcdsrError, ImportError):
    """An optional package is needed for what was asked and is not installed."""


class UsageError(LlmcdsrError, ValueError):
    """An argument of a call has a value that cannot be meant."""


class SettingsError(TrainingError, UsageError):
    """A setting of training has a value that cannot be meant, or settings do not go together."""


def install_hint(extra: str) -> str:
    """How to install what an extra of this package brings, to end a message with."""
    return (
        f"pip install '.[{extra}]' in a checkout, pip install 'llmcdsr-lite[{extra}]' where an index has it"
    )
