"""What lies in a bundle, by name: relative paths with forward slashes.

OUT byte for byte      config.json, *.safetensors, quark_eagle.json, tokenizer files, a licence
RENDERED               from the evidence, and again by whoever checks
evidence/              what the rendered files say, and stand on
SUMS                   sha256 of every file but itself and the signature
SIGNATURE              over every file but itself
"""

from __future__ import annotations

from typing import Final

CARD: Final = "README.md"
REPORT: Final = "report.html"
BOM: Final = "bom.cdx.json"
SCRIPT: Final = "reproduce.sh"
SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "model.sig"

EVIDENCE: Final = "evidence"
RELEASE: Final = f"{EVIDENCE}/release.json"
PARITY: Final = f"{EVIDENCE}/parity.json"
"""The measurement that was judged, byte for byte as it was given."""
REPLAYED: Final = f"{EVIDENCE}/replayed.parity.json"
"""Beside a judged measurement that was served, the replay of the same two drafts, if there is one."""
SERVED: Final = f"{EVIDENCE}/served.parity.json"
"""Beside a judged measurement that was replayed, the same two drafts served, if they were."""
VERDICT: Final = f"{EVIDENCE}/verdict.json"
VERIFICATION: Final = f"{EVIDENCE}/verification.json"
WEIGHTS: Final = f"{EVIDENCE}/weights.json"
ENVIRONMENT: Final = f"{EVIDENCE}/environment.json"
CALIBRATION: Final = f"{EVIDENCE}/calibration.json"
"""Of a draft with static scales: what they were observed on."""

RENDERED: Final = (CARD, REPORT, BOM, SCRIPT)
"""Files that `quark_eagle.release.rendering` makes of the evidence, and of nothing else."""
NOT_IN_SUMS: Final = frozenset({SUMS, SIGNATURE})
"""A file cannot hold its own hash, and the signature is made last, over the hashes too."""
WRITTEN: Final = frozenset({*RENDERED, *NOT_IN_SUMS})
"""Names at the top that a release writes itself, so that a checkpoint may have no such file."""


def is_checkpoint_file(path: str) -> bool:
    """Whether a file of a bundle is the checkpoint's own, and no part of what a release adds.

    >>> is_checkpoint_file("model.safetensors"), is_checkpoint_file("README.md"), is_checkpoint_file("evidence/x.json")
    (True, False, False)
    """
    return path not in WRITTEN and not path.startswith(f"{EVIDENCE}/")
