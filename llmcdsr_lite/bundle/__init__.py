"""The bundle: a model folder that is data, checked before use (see `folder` for its files)."""

from llmcdsr_lite.bundle.folder import Bundle, read_bundle, write_bundle

__all__ = ["Bundle", "read_bundle", "write_bundle"]
