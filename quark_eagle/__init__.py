"""Quantize Eagle3 drafts to FP8, check what an engine will make of them, and measure what acceptance they keep.

    BF16 dir → Checkpoint → QuantPlan → [Quark] → staged FP8 dir → VerifyReport → ParityReport → Verdict → published
    prompts  → TargetTrace → replay(bf16), replay(fp8) → AcceptanceHistogram ×2 → Difference → Verdict → exit code

The public names below are loaded when they are first used: importing `quark_eagle` imports neither torch nor Quark.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.deploy.verify import VerifyReport, verify
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.documents.verdict import Verdict
    from quark_eagle.errors import QuarkEagleError
    from quark_eagle.opening import open_comparison
    from quark_eagle.parity.acceptance import AcceptanceHistogram
    from quark_eagle.parity.gate import gate
    from quark_eagle.parity.verdict import Rules
    from quark_eagle.progress import Progress
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.scheme import Scheme
    from quark_eagle.trace.target_trace import TargetTrace

_HOMES = {
    "AcceptanceHistogram": "quark_eagle.parity.acceptance",
    "Checkpoint": "quark_eagle.checkpoint.reader",
    "Eagle3Layout": "quark_eagle.checkpoint.layout",
    "ParityReport": "quark_eagle.documents.parity",
    "Progress": "quark_eagle.progress",
    "QuantPlan": "quark_eagle.quantize.plan",
    "QuarkEagleError": "quark_eagle.errors",
    "Scheme": "quark_eagle.quantize.scheme",
    "TargetTrace": "quark_eagle.trace.target_trace",
    "Rules": "quark_eagle.parity.verdict",
    "Verdict": "quark_eagle.documents.verdict",
    "VerifyReport": "quark_eagle.deploy.verify",
    "gate": "quark_eagle.parity.gate",
    "open_comparison": "quark_eagle.opening",
    "verify": "quark_eagle.deploy.verify",
}

__all__ = [
    "AcceptanceHistogram",
    "Checkpoint",
    "Eagle3Layout",
    "ParityReport",
    "Progress",
    "QuantPlan",
    "QuarkEagleError",
    "Rules",
    "Scheme",
    "TargetTrace",
    "Verdict",
    "VerifyReport",
    "__version__",
    "gate",
    "open_comparison",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quark_eagle' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
