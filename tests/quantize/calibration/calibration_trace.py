"""A tiny trace of the split "calibration", whose prompts are nobody else's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.trace.target_trace import TRACE_NAME
from quark_eagle.trace.trace_document import TraceDocument, TracedPromptInfo
from tests.tiny_trace import write_tiny_trace


def write_calibration_trace(directory: Path, draft: Path, **options: Any) -> Path:
    """As `write_tiny_trace`, of other prompts and another split."""
    write_tiny_trace(directory, draft, **options)
    return relabel(directory, as_calibration)


def as_calibration(info: TracedPromptInfo) -> TracedPromptInfo:
    sha256 = hashlib.sha256(b"calibration " + info.id.encode()).hexdigest()
    return replace(info, split="calibration", sha256=sha256)


def relabel(directory: Path, change: Callable[[TracedPromptInfo], TracedPromptInfo]) -> Path:
    """Says other things of a trace's prompts."""
    document = TraceDocument.read(directory / TRACE_NAME)
    prompts = tuple(map(change, document.prompts))
    prompts_sha256 = sha256_of_prompts((it.id, it.category, it.split, it.sha256) for it in prompts)
    changed = replace(document, prompts=prompts, prompts_sha256=prompts_sha256)
    (directory / TRACE_NAME).write_bytes(changed.to_bytes())
    return directory
