"""What a draft's static scales were observed on, and whether it is judged on the same prompts.

A scale that was fitted to a prompt flatters the draft on that prompt. Prompts are told by the hash of their messages,
so neither another id nor another label hides one.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.documents.parity import CalibratedOn, ParityReport
from quark_eagle.errors import CheckpointError


def calibrated_on(directory: Path) -> CalibratedOn | None:
    """What a checkpoint says of its calibration; None if it has none, or was not made by this program.

    Raises:
        CheckpointError: its record cannot be read, so that nobody can say what it was calibrated on.
    """
    path = directory / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = (record.get("activation_scales") or {}).get("calibration")
        return CalibratedOn.model_validate(known) if known else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: could not be read ({why}), but it says what the draft was calibrated on. "
            "Copy the checkpoint again."
        ) from error


def contaminated(report: ParityReport) -> str | None:
    """Why a measurement cannot be judged: prompts that the candidate was calibrated on, all of them; None if none."""
    known = report.candidate.calibrated_on
    seen = frozenset(known.prompts) if isinstance(known, CalibratedOn) else frozenset()
    both = [prompt for prompt in report.prompts if prompt.sha256 in seen]
    if not both:
        return None
    named = ", ".join(f"{prompt.id} (sha256 {prompt.sha256})" for prompt in both)
    return (
        f"The candidate was calibrated on {len(both)} of the {len(report.prompts)} prompts that it is judged on, and "
        f"scales that were fitted to a prompt flatter the draft on it: {named}. "
        "Judge it on prompts that it has not seen, or calibrate it on others."
    )
