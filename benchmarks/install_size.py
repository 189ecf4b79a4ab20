"""Megabytes of a runtime install, by package: ``python benchmarks/install_size.py``.

Builds the wheel of this checkout, installs it into new virtual environments in three ways (as pip does it;
without the packages that ONNX Runtime does not need at inference; with NumPy alone), and has each answer a
request from the demo bundle. pip itself, which a new environment holds, is counted apart; it writes compiled
modules (.pyc), unless it is told ``--no-compile``: Python then makes them at the first import.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL = 160  # MB
ANSWER = """
import sys
from llmcdsr_lite import Recommender
recommender = Recommender.load(sys.argv[1], backend=sys.argv[2])
answer = recommender.recommend(["g-coffee-dark-roast-whole-bean"], k=10)
print(*(item.id for item in answer))
"""
# Sizes of the files that each distribution recorded at installation: all of them, and compiled modules.
SIZES = """
import json, sys
from importlib.metadata import distributions
from pathlib import Path
found = {}
for distribution in distributions():
    paths = {Path(distribution.locate_file(file)).resolve() for file in distribution.files or ()}
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    compiled = sum(size for path, size in sizes.items() if path.suffix == ".pyc")
    found[distribution.name] = (sum(sizes.values()), compiled)
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True)
class Variant:
    """One way of installing."""

    name: str
    backend: str
    arguments: tuple[str, ...]  # of pip install, before the wheel
    beside: tuple[str, ...] = ()  # installed without their dependencies


VARIANTS = (
    Variant("pip install llmcdsr-lite", "onnx", ()),
    Variant(
        "pip install --no-deps llmcdsr-lite numpy onnxruntime",
        "onnx",
        ("--no-deps",),
        ("numpy", "onnxruntime"),
    ),
    Variant("pip install --no-deps llmcdsr-lite numpy", "numpy", ("--no-deps",), ("numpy",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        answers = set()
        for number, variant in enumerate(VARIANTS):
            python = install(folder / f"venv{number}", wheel, variant)
            report(variant, json.loads(run(python, "-c", SIZES)))
            answers.add(run(python, "-c", ANSWER, str(options.bundle), variant.backend))
        if len(answers) != 1:
            raise SystemExit(f"the installs answer differently: {answers}")
        print(f"All of them answer alike: {answers.pop().strip()}")


def build_wheel(folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path, variant: Variant) -> str:
    """Install into a new environment; returns its Python."""
    run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*command, *variant.arguments, *variant.beside, str(wheel))
    return python


def report(variant: Variant, sizes: dict[str, tuple[int, int]]) -> None:
    tools = [(name, *sizes.pop(name)) for name in ("pip", "setuptools") if name in sizes]
    packages = [(name, *found) for name, found in sorted(sizes.items(), key=lambda item: -item[1][0])]
    total, compiled = sum(size for _, size, _ in packages), sum(pyc for _, _, pyc in packages)
    print(f"{variant.name}\n\n       MB  of it .pyc")
    met = "within" if total / 1e6 <= GOAL else "over"
    for name, size, pyc in (*packages, (f"together, {met} the goal of {GOAL} MB", total, compiled)):
        print(f"  {size / 1e6:7.1f}  {pyc / 1e6:10.1f}  {name}")
    print(f"  not counted: {', '.join(f'{name} {size / 1e6:.1f} MB' for name, size, _ in tools)}\n")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
