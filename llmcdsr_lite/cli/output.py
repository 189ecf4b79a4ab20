"""What the runtime's commands print for people to read."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.bundle.mix import no_mix
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.results import Explanation, Recommendation
from llmcdsr_lite.score.output import ScoreSummary


def item_table(catalogue: Catalogue, item_ids: Iterable[str]) -> str:
    """A line an item: id, domain, title."""
    return _table([_fields(catalogue, item_id) for item_id in item_ids])


def recommendation_table(items: Iterable[Recommendation]) -> str:
    """A line an item: score, id, domain, title."""
    return _table([(f"{item.score:8.3f}", item.id, item.domain, item.title) for item in items])


def explanation_text(explanation: Explanation) -> str:
    """What the items of the history brought, and the pseudo items."""
    lines = []
    if explanation.history:
        changes = [
            ("       -" if i.change is None else f"{i.change:+8.3f}", i.id, i.title)
            for i in explanation.history
        ]
        lines += ["score of the first recommendation that each item of the history brought", _table(changes)]
    if len(explanation.shares) > 1:
        shares = ", ".join(f"{name} {share:+.3f}" for name, share in explanation.shares.items())
        lines.append(f"score of the first recommendation: {shares}")
    lines.append(f"pseudo items: {explanation.setting}")
    if explanation.pseudo:
        pseudo = [
            (f"cosine {p.similarity:6.3f}", "inserted" if p.inserted else "", p.id, p.title)
            for p in explanation.pseudo
        ]
        lines.append(_table(pseudo))
    return "\n".join(lines)


def bundle_text(folder: Path, bundle: Bundle, description: Mapping[str, Any]) -> str:
    """What a verified bundle is; `description` is the content of its config.json."""
    config = bundle.parameters.config
    domains = bundle.catalogue.domains
    size = sum(entry["bytes"] for entry in description["files"].values())
    lines = [f"{folder}: format version {description['format_version']}, verified, {size / 1e6:.2f} MB"]
    lines += [f"domain {domain.name}: {domain.n_items:,} items" for domain in domains]
    lines.append(
        f"model: {_members(bundle)}SASRec, hidden size {config.hidden}, {config.n_blocks} blocks, "
        f"{config.n_heads} heads, histories up to {config.max_length} items"
    )
    if bundle.mix != no_mix(domains):
        lines += [f"mix for {domain.name}: {mix}" for domain, mix in zip(domains, bundle.mix, strict=True)]
    if bundle.new_items is not None:
        counts = zip(bundle.new_items.added, domains, strict=True)
        added = ", ".join(f"{n:,} of {domain.name}" for n, domain in counts)
        lines.append(f"new items: {added} were added; embeddings of {bundle.new_items.dimension} values")
    lines.append(_table([(f"{entry['bytes']:>12,}", name) for name, entry in description["files"].items()]))
    return "\n".join(lines)


class Counter:
    """Counts on standard error if that is a terminal, and keeps messages off the line that it counts on."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr is not None and sys.stderr.isatty()
        self._is_open = False
        self._first: tuple[int, float] | None = None

    def show(self, done: ScoreSummary) -> None:
        """Count; the rate is of the batches since the first one, not of what an earlier job did."""
        if self._first is None:
            self._first = done.users, time.perf_counter()
        users, start = self._first
        seconds = time.perf_counter() - start
        rate = f", {(done.users - users) / seconds:,.0f} a second" if done.users > users and seconds else ""
        self._write(f"\r{done.users:,} users{rate} ")
        self._is_open = True

    def tell(self, message: str) -> None:
        """A message on a line of its own."""
        self.end()
        self._write(f"{message}\n")

    def end(self) -> None:
        """End the line that counts, if there is one."""
        if self._is_open:
            self._write("\n")
        self._is_open = False

    def _write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def _members(bundle: Bundle) -> str:
    n = len(bundle.parameters.members)
    return f"{n} members, each " if n > 1 else ""


def _fields(catalogue: Catalogue, item_id: str) -> tuple[str, str, str]:
    row = catalogue.row(item_id)
    return item_id, catalogue.domain_of_row(row).name, catalogue.titles[row - 1]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest field, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(field.ljust(w) for field, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  " + line.rstrip() for line in lines)
