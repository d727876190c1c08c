"""verification.json: what an engine will do with the weights that are released, by its loading rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release.evidence import Given


def verified(
    checkpoint: Path,
    given: Given,
    source: Path | None = None,
    engine_version: str | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """What an engine will do with every module of a checkpoint, beside the target that it was measured with.

    Args:
        checkpoint: OUT, or a bundle.
        given: the evidence, which knows how many layers the target has; names of modules contain that number.
        source: the BF16 draft, to compare every byte and every weight with.
        engine_version: whose rules; None takes the installed engine's, and the newest known where there is none.
        progress: told of the bytes read.

    Raises:
        VerificationError: the rules do not cover the way in which it is quantized.
        CheckpointError: a draft cannot be read.
    """
    layers = given.parity.provenance.target.get("num_hidden_layers")
    return verify(checkpoint, source, layers if isinstance(layers, int) else None, engine_version, progress)


def verification(report: VerifyReport, *, name: str, base_model: str) -> Mapping[str, Any]:
    """The report as it lies in a bundle: under the names that everybody knows, and not under paths of one machine."""
    renamed = {"directory": name, "source": None if report.source is None else base_model}
    return report.to_json() | renamed
