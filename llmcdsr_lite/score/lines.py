"""From a batch of records to lines of a text output."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.results import BatchRecommendations
from llmcdsr_lite.score.batches import ScoreSettings
from llmcdsr_lite.score.histories import FileFormat, HistoryRecord


@dataclass(frozen=True)
class ScoredBatch:
    """Output for a batch, and what was counted on the way (see `ScoreSummary`)."""

    content: bytes
    unknown_items: int
    fallbacks: int


def recommend_records(
    recommender: Recommender,
    records: Sequence[HistoryRecord],
    settings: ScoreSettings,
) -> Iterator[tuple[list[int], BatchRecommendations]]:
    """Recommend for records of several domains.

    Parameters
    ----------
    recommender : Recommender
    records : sequence of HistoryRecord
    settings : ScoreSettings
        Its `k` may be larger than the catalogue.

    Yields
    ------
    places : list of int
        Which records an answer is for: those of one domain.
    answers : BatchRecommendations
        Aligned with `places`.
    """
    wanted = [record.domain or settings.domain for record in records]
    for one in dict.fromkeys(wanted):
        places = [i for i, name in enumerate(wanted) if name == one]
        yield (
            places,
            recommender.recommend_batch(
                [records[i].history for i in places],
                domain=one,
                k=settings.k,
                exclude_seen=settings.exclude_seen,
                pseudo=settings.pseudo,
            ),
        )


@dataclass(frozen=True)
class LineScorer:
    """Scores records and formats the answers.

    Parameters
    ----------
    recommender : Recommender
    settings : ScoreSettings
    format : {"jsonl", "csv"}
        Of the output, in UTF-8.
    """

    recommender: Recommender
    settings: ScoreSettings
    format: FileFormat

    def score(self, records: Sequence[HistoryRecord]) -> ScoredBatch:
        """Lines for the records, in their order."""
        lines = [""] * len(records)
        unknown_items = fallbacks = 0
        for places, answers in recommend_records(self.recommender, records, self.settings):
            unknown_items += sum(map(len, answers.unknown_items))
            fallbacks += int(answers.fallback.sum())
            for n, i in enumerate(places):
                lines[i] = self._line(records[i].user, answers, n)
        return ScoredBatch("".join(lines).encode(), unknown_items, fallbacks)

    def _line(self, user: str, answers: BatchRecommendations, n: int) -> str:
        catalogue = self.recommender.items
        found = [
            (row, item, round(score, 6))
            for row, item, score in zip(
                answers.rows[n].tolist(), answers.ids[n], answers.scores[n].tolist(), strict=True
            )
            if row
        ]
        fallback = bool(answers.fallback[n])
        if self.format == "csv":
            rows = [[user, rank, i, s, int(fallback)] for rank, (_, i, s) in enumerate(found, 1)]
            if self.settings.titles:
                for fields, (row, _, _) in zip(rows, found, strict=True):
                    fields += [catalogue.domain_of_row(row).name, catalogue.titles[row - 1]]
            return _csv_lines(rows)
        items: list[dict[str, Any]] = [{"id": item, "score": score} for _, item, score in found]
        if self.settings.titles:
            for described, (row, _, _) in zip(items, found, strict=True):
                described["domain"] = catalogue.domain_of_row(row).name
                described["title"] = catalogue.titles[row - 1]
        record = {
            "user": user,
            "items": items,
            "unknown": len(answers.unknown_items[n]),
            "fallback": fallback,
        }
        return json.dumps(record, ensure_ascii=False) + "\n"


def output_header(settings: ScoreSettings, format: FileFormat) -> bytes:
    """What an output begins with: column names in a CSV, nothing in JSON Lines."""
    if format == "jsonl":
        return b""
    extra = ["domain", "title"] if settings.titles else []
    return _csv_lines([["user", "rank", "item", "score", "fallback", *extra]]).encode()


def _csv_lines(rows: list[list[Any]]) -> str:
    lines = _CsvLines()
    csv.writer(lines).writerows(rows)
    return "".join(lines)


class _CsvLines(list[str]):
    """Lines from csv.writer, whose own line end of two characters makes it quote both in a field."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")
