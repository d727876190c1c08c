"""Token text: what token ids mean, from a target's `tokenizer.json` alone: data, of which nothing is run.

A target whose tokenizer is Python code, or a format of its own, is not decoded: its tokens are shown as numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quark_eagle.errors import QuarkEagleError, UsageError

TOKENIZER_NAME = "tokenizer.json"

Decode = Callable[[Sequence[int]], str]


def open_tokenizer(directory: Path) -> Decode:
    """The decoder of a directory.

    Raises:
        UsageError: it holds no ``tokenizer.json``.
        QuarkEagleError: the file is damaged, or `tokenizers` is not installed.
    """
    path = directory / TOKENIZER_NAME
    if not path.is_file():
        raise UsageError(
            f"{directory}: found no {TOKENIZER_NAME}, but only that can be read without running code. "
            "Point at the target's directory, or leave --tokenizer out: tokens are then shown as numbers."
        )
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise QuarkEagleError(
            "tokenizers: not installed, but it reads tokenizer.json. Install it: pip install 'quark-eagle[trace]', "
            "or leave --tokenizer out."
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers 0.23 raises the bare class for whatever is wrong with the file
        raise QuarkEagleError(
            f"{path}: could not be read as a tokenizer ({error}). Copy it again, or leave --tokenizer out."
        ) from error
    return lambda token_ids: str(tokenizer.decode(list(token_ids), skip_special_tokens=False))


def tokenizer_of_target(target: Mapping[str, Any]) -> Decode | None:
    """The decoder of the target that a report names, if it lies on this machine and is that target; else None.

    Args:
        target: as in provenance: ``name`` is a directory or a Hugging Face id, which is looked up in the cache only.
    """
    for directory in (Path(str(target["name"])), _cached(str(target["name"]), target.get("revision"))):
        if directory is not None and _is_it(directory, str(target["config_sha256"])):
            try:
                return open_tokenizer(directory)
            except QuarkEagleError:  # nobody asked for text: numbers will do
                return None
    return None


def _is_it(directory: Path, config_sha256: str) -> bool:
    try:
        return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest() == config_sha256
    except OSError:
        return False


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name.partition("@")[0], TOKENIZER_NAME, revision=revision)
    except HFValidationError:  # a path, not an id
        return None
    return Path(found).parent if isinstance(found, str) else None
