"""Our numbers beside the official ones: ``python benchmarks/conformance.py FILE...``."""

from __future__ import annotations

from pathlib import Path

import click

from conformance_check.check import check
from llmcdsr_lite.errors import DataError


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(files: tuple[Path, ...]) -> None:
    """Check case FILES of the official implementation's numbers against the NumPy models.

    Example: python benchmarks/conformance.py ../shared/conformance/*.npz
    """
    passed = True
    for path in files:
        try:
            results = check(path)
        except DataError as error:
            raise click.ClickException(str(error)) from None
        click.echo(path)
        for r in results:
            passed &= r.passed
            if r.error is None:
                click.echo(f"  {r.group:<12} not checked: no check of that name")
                continue
            verdict = "ok" if r.passed else "OUT OF TOLERANCE"
            click.echo(
                f"  {r.group:<12} {r.error:.1e} (tolerance {r.tolerance:.0e}, worst: {r.worst}) {verdict}"
            )
            if r.unread:
                click.echo(f"  {'':<12} not read: {', '.join(r.unread)}")
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
