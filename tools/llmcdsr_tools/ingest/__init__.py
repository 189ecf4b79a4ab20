"""Stage `ingest`: interactions become a data set folder."""

from llmcdsr_tools.ingest.stage import IngestSettings, ingest

__all__ = ["IngestSettings", "ingest"]
