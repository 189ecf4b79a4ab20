"""Counting which processes load a bundle, and how often, by the files that they open."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

_HOOK = """
import os, sys

def note(event, arguments):
    if event == "open" and os.path.realpath(str(arguments[0])) == {config!r}:
        log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, f"{{os.getpid()}}\\n".encode())
        os.close(log)

sys.addaudithook(note)
{more}
"""


class BundleLoads:
    """Notes the loads of one bundle in all processes that are started with `environment`.

    `more` is code that those processes run when they start.
    """

    def __init__(self, bundle: Path, folder: Path, more: str = "") -> None:
        folder.mkdir()
        self._log = folder / "log"
        hook = _HOOK.format(config=os.path.realpath(bundle / "config.json"), log=str(self._log), more=more)
        (folder / "sitecustomize.py").write_text(hook)
        path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}

    def count(self) -> Counter[int]:
        """Loads of each process."""
        lines = self._log.read_text().split() if self._log.exists() else []
        return Counter(map(int, lines))
