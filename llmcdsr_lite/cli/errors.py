"""What a command raises, as one line on stderr and an exit status: 2 for usage, 1 for a failed job."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import click

from llmcdsr_lite.errors import LlmcdsrError, UsageError


class _ClosedStream(io.TextIOBase):
    """Stands for a closed standard stream: click writes nothing to one, without a word."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def buffer(self) -> BinaryIO:
        """There is none."""
        self._refuse()

    def read(self, size: int | None = -1) -> str:
        """Refuse."""
        self._refuse()

    def write(self, text: str) -> int:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise OSError(f"{self._name} is closed")


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn what a command raises into what click prints without a traceback."""
    if sys.stdin is None:
        sys.stdin = _ClosedStream("standard input")
    if sys.stdout is None:
        sys.stdout = _ClosedStream("standard output")
    try:
        yield
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    except LlmcdsrError as error:
        raise click.ClickException(str(error)) from None
    except UnicodeEncodeError as error:
        lacks = f"is {sys.stdout.encoding}, which lacks {error.object[error.start]!a}"
        raise click.ClickException(f"standard output {lacks}; set PYTHONIOENCODING=utf-8") from None
    except BrokenPipeError:
        raise  # click ends quietly, as a reader such as head expects
    except OSError as error:  # a full disk, a folder without permission: no traceback helps here
        raise click.ClickException(str(error)) from None
    except MemoryError as error:
        raise click.ClickException(f"not enough memory: {error}".removesuffix(": ")) from None


class Group(click.Group):
    """Commands whose errors are messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with errors_as_messages():
            return super().invoke(ctx)


class Command(click.Command):
    """A command by itself whose errors are messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with errors_as_messages():
            return super().invoke(ctx)
