"""Everything that can go wrong through no fault of the code, as one tree.

    QuarkEagleError              could not do it                          exit code 5
     ├── UsageError              a wrong option, an existing output       exit code 2
     │    └── PlanError          a --keep pattern that cannot be honoured
     ├── CheckpointError         the draft on disk cannot be used
     │    ├── MissingTensorError
     │    └── ShapeMismatchError
     ├── QuantizationError       the weights cannot be put into FP8
     │    └── NonFiniteWeightError
     ├── TraceError              the recorded trace cannot be used
     │    └── TraceMismatchError it belongs to another target or draft
     ├── VerificationError       an engine could not be asked how it loads a draft
     ├── EngineError             an engine could not be started, reached or kept alive
     └── StorageError            disk full, no permission

Each takes one message, which may have several lines and reads: *where: what was found, but what was
needed. What follows. What to do.* A failed gate is a value, never one of these.
"""

from __future__ import annotations

from collections.abc import Sequence


class QuarkEagleError(Exception):
    """Something a user can put right; the command line prints it without a traceback."""

    exit_code: int = 5


class UsageError(QuarkEagleError):
    """The command asks for something it cannot have: an option value, a pattern, an existing output."""

    exit_code = 2


class PlanError(UsageError):
    """A --keep pattern matches nothing, or would split a fused group."""


class CheckpointError(QuarkEagleError):
    """The checkpoint cannot be read, is not an Eagle3 draft, or contradicts itself."""


class MissingTensorError(CheckpointError):
    """A tensor that the draft cannot do without is not in the checkpoint."""


class ShapeMismatchError(CheckpointError):
    """A tensor's shape is not the one that config.json implies."""


class QuantizationError(QuarkEagleError):
    """The weights cannot be quantized."""


class NonFiniteWeightError(QuantizationError):
    """A weight is NaN or infinite; FP8 e4m3fn has no infinity and one NaN would spoil its channel."""


class TraceError(QuarkEagleError):
    """A trace cannot be read or recorded."""


class TraceMismatchError(TraceError):
    """A trace was recorded for another target, draft or sampling than the one it is used with."""


class VerificationError(QuarkEagleError):
    """An engine could not be asked, so nothing is known; not a finding about the checkpoint."""


class EngineError(QuarkEagleError):
    """An engine could not be started, did not answer, or died; the message names its log."""


class StorageError(QuarkEagleError):
    """The disk is full, or a file or directory may not be read or written."""


def findings(where: str, problems: Sequence[str], advice: str = "") -> str:
    """One message that lists every problem found in one place.

    >>> print(findings("draft/config.json", ["hidden_size is missing."], "Add it."))
    draft/config.json: hidden_size is missing. Add it.
    >>> print(findings("draft", ["fc.weight is missing.", "norm.weight is missing."], "Re-export it."))
    draft: 2 problems.
      - fc.weight is missing.
      - norm.weight is missing.
    Re-export it.
    """
    if len(problems) == 1:
        return f"{where}: {problems[0]} {advice}".rstrip()
    lines = [f"{where}: {len(problems)} problems.", *(f"  - {problem}" for problem in problems), advice]
    return "\n".join(lines).rstrip()
