"""onnxruntime sessions that are safe in the child of a fork.

A session copied by a fork lacks its threads and may hold locks that nobody will open: running it, or taking
it apart, can wait for ever. So the child makes one of its own at its first run, and leaves the copy alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

_LOG = logging.getLogger(__name__)
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """Import onnxruntime, and keep it from talking to anybody.

    From version 1.29 on, importing it starts a thread that reports usage over the network (and that a
    forked child waits for at its end), unless a variable is set by then. Whoever has imported it before
    has decided for the process; so has one who sets the variable, to whatever value.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    ours = "onnxruntime" not in sys.modules and _NO_TELEMETRY not in os.environ
    if ours:
        os.environ[_NO_TELEMETRY] = "1"
    try:
        import onnxruntime
    finally:
        if ours:
            os.environ.pop(_NO_TELEMETRY, None)  # it is read once, at import
    return onnxruntime


class OnnxSession:
    """A session on the CPU.

    Parameters
    ----------
    model : bytes or str
        An ONNX model, or the path of its file, which must stay for the children of a fork.
    threads : int
        Threads inside one operator.
    tables : mapping of str to array, optional
        External initializers, handed over without a copy.

    Raises
    ------
    ImportError
        If onnxruntime is not installed.
    Exception
        Of onnxruntime, which has no narrower base, if it refuses the model.
    """

    def __init__(
        self, model: bytes | str, threads: int, tables: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> None:
        self._model, self._threads, self._tables = model, threads, dict(tables or {})
        self._start()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Values of the outputs for these inputs."""
        if self._process != os.getpid():
            _LOG.info("process %d: a session of its own after a fork", os.getpid())
            _abandon(self._session)
            self._start()  # threads of a child that do this together do the same
        found: list[Any] = self._session.run(outputs, inputs)
        return found

    def input_types(self) -> dict[str, str]:
        """Types of the inputs by name, as onnxruntime calls them."""
        return {one.name: one.type for one in self._session.get_inputs()}

    def output_names(self) -> list[str]:
        """Names of the outputs, in the model's order."""
        return [one.name for one in self._session.get_outputs()]

    def _start(self) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it would keep what the largest batch took
        options.log_severity_level = 4  # errors are raised; nothing is printed on our caller's stderr
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(t) for name, t in self._tables.items()}
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        self._session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        self._values = values  # they must live as long
        self._process = os.getpid()

    def __del__(self) -> None:
        if "_process" in vars(self) and self._process != os.getpid():
            _abandon(self._session)


def _abandon(session: Any) -> None:
    """Let a session never be taken apart: in a child that waits for threads of the parent."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
