"""config.json of a bundle: read strictly, before any other file is looked at.

It holds the hashes of the other files, and one of its own content: ``config_sha256`` is the SHA-256 of the
other fields as JSON with sorted keys, without blanks and in ASCII. Bundles from before have no such field.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from llmcdsr_lite.bundle.files import is_utf8, read_size
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.model.parameters import SASRecConfig

FORMAT = "llmcdsr-bundle"
FORMAT_VERSION = 1
CHECKSUM = "config_sha256"

# Bounds that no real bundle comes near: they keep a hostile one from making us loop or allocate.
_MAX_CONFIG_BYTES = 1 << 20
MAX_SIZE = {"hidden": 1 << 14, "n_blocks": 1 << 8, "n_heads": 1 << 10, "max_length": 1 << 16}
MAX_MEMBERS = 64
MAX_DOMAINS = 64
_MIN_EPSILON = 1e-30  # zero as a float32 would be a division by zero


def write_config(path: Path, description: dict[str, Any]) -> None:
    """Write config.json with its checksum; null stands for a measure that is not finite."""
    # as it will be read: with strings for keys, lists for tuples
    plain = json.loads(json.dumps(description), parse_constant=lambda _: None)
    text = json.dumps({**plain, CHECKSUM: config_sha256(plain)}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """What config.json says, and the SHA-256 of the file.

    Raises
    ------
    BundleError
        If it is not strict JSON (no repeated keys, nothing that is not finite), of another format, or its
        checksum is not that of its content.
    """
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise BundleError(f"{path}: larger than {_MAX_CONFIG_BYTES:,} bytes")
    try:
        content = path.read_bytes()
        description = json.loads(
            content.decode(), object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite
        )
        found = config_sha256(description) if isinstance(description, dict) else ""
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(description, dict):
        raise BundleError(f"{path}: must be a JSON object")
    _check_format(path, description)
    if description.get(CHECKSUM, found) != found:
        raise BundleError(
            f"{path}: the SHA-256 of its content is {found}, "
            f"field {CHECKSUM!r} says {description[CHECKSUM]!r:.80}: damaged or changed"
        )
    return description, hashlib.sha256(content).hexdigest()


def config_sha256(description: dict[str, Any]) -> str:
    """The checksum of what config.json says."""
    rest = {name: value for name, value in description.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a repeated key, readers take the one or the other."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {max(names, key=names.count)!r:.60} is repeated")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.60} is not finite")
    return value


def _check_format(path: Path, description: dict[str, Any]) -> None:
    if description.get("format") != FORMAT:
        raise BundleError(f"{path}: field 'format' is {description.get('format')!r}, expected {FORMAT!r}")
    version = description.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: field 'format_version' is {version!r}, expected {FORMAT_VERSION}: the bundle was made "
            "by another version of llmcdsr-lite"
        )


def read_sizes(
    path: Path, description: dict[str, Any]
) -> tuple[SASRecConfig, int, tuple[str, ...], tuple[int, ...]]:
    """Sizes of the model, number of its members, names and numbers of items of the domains."""
    domains = description.get("domains")
    if not isinstance(domains, list) or not 1 <= len(domains) <= MAX_DOMAINS:
        raise BundleError(f"{path}: field 'domains' must list 1 to {MAX_DOMAINS} domains")
    names: list[str] = []
    sizes: list[int] = []
    for domain in domains:
        name = domain.get("name") if isinstance(domain, dict) else None
        if not isinstance(name, str) or not name or not is_utf8(name):
            raise BundleError(f"{path}: each of 'domains' needs a name")
        if name in names:
            raise BundleError(f"{path}: two of 'domains' are named {name!r}")
        names.append(name)
        sizes.append(read_size(path, domain, "items", 1 << 31))
    model = description.get("model")
    if not isinstance(model, dict):
        raise BundleError(f"{path}: field 'model' must be an object")
    epsilon = model.get("epsilon")
    if not isinstance(epsilon, float) or not _MIN_EPSILON < epsilon < 1:
        raise BundleError(f"{path}: field 'model.epsilon' is {epsilon!r}, expected a number between 0 and 1")
    hidden, n_blocks, n_heads, max_length = (
        read_size(path, model, name, limit) for name, limit in MAX_SIZE.items()
    )
    try:
        config = SASRecConfig(sum(sizes), hidden, n_blocks, n_heads, max_length, 0.0, epsilon)
    except ValueError as error:
        raise BundleError(f"{path}: field 'model': {error}") from None
    n_members = read_size(path, model, "members", MAX_MEMBERS) if "members" in model else 1
    return config, n_members, tuple(names), tuple(sizes)
