"""Side: one of the drafts that are measured, as its files are, and whether a trace fits it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.checkpoint.traffic import Footprint, ReadIn
from quark_eagle.documents.parity import Arm, StepBytes
from quark_eagle.errors import TraceMismatchError
from quark_eagle.parity.calibrated_on import calibrated_on
from quark_eagle.trace.target_trace import TargetTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One draft as it is loaded: its name, its files, its layout, and what the engine makes of it.

    Attributes:
        miscast: modules that the engine casts wrongly, and replay with it.
        misread: what the engine would not run as it is meant, whether replay shows it or not.
    """

    name: str
    checkpoint: Checkpoint
    layout: Eagle3Layout
    miscast: tuple[str, ...]
    misread: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        directory: Path,
        miscast: Collection[str] = (),
        name: str | None = None,
        misread: Collection[str] = (),
    ) -> Side:
        """The draft in a directory, from its headers; called as the directory if it has no other name."""
        checkpoint = Checkpoint.open(directory)
        return cls(
            name=name or directory.resolve().name,
            checkpoint=checkpoint,
            layout=Eagle3Layout.of(checkpoint),
            miscast=tuple(sorted(miscast)),
            misread=tuple(misread),
        )

    @property
    def is_in_quarks_format(self) -> bool:
        """Whether its ``quantization_config`` is Quark's own."""
        return (self.checkpoint.quantization_config or {}).get("quant_method") == "quark"

    def arm(self) -> Arm:
        """How a report identifies it; reads all its bytes."""
        linear = self.layout.by_canonical["layers.0.mlp.down_proj.weight"]
        return Arm(
            name=self.name,
            weights_sha256=sha256_of_weights(self.checkpoint.directory, self.checkpoint.shards),
            config_sha256=hashlib.sha256((self.checkpoint.directory / CONFIG_NAME).read_bytes()).hexdigest(),
            family=self.layout.family.value,
            weight_dtype=self.checkpoint.info(linear).dtype,
            miscast=list(self.miscast),
            misread=list(self.misread),
            step_bytes=self._step_bytes(),
            calibrated_on=calibrated_on(self.checkpoint.directory) or ("unknown" if self._is_static else None),
        )

    @property
    def _is_static(self) -> bool:
        """Whether it has scales that somebody calibrated."""
        return any(name.endswith((".input_scale", ".k_scale", ".v_scale")) for name in self.checkpoint.tensors)

    def _step_bytes(self) -> StepBytes:
        step = Footprint.of(self.checkpoint, self.layout, ()).step
        return StepBytes(
            layers=step(ReadIn.LAYERS),
            head=step(ReadIn.HEAD),
            embedding=step(ReadIn.EMBEDDING),
            first_step=step(ReadIn.FIRST_STEP),
        )


def require_fits(trace: TargetTrace, sides: Sequence[tuple[str, Side]]) -> None:
    """See that the drafts can be replayed over the trace.

    Args:
        trace: to replay them over.
        sides: the drafts, each with the part it plays: "baseline" or "candidate".

    Raises:
        TraceMismatchError: one of them cannot; what each of them lacks is told together.
    """
    problems = [_misfit(trace, part, side) for part, side in sides]
    if trace.states.projection is not None and any("fc" in side.miscast for _, side in sides):
        problems.append(
            f"{trace.directory}: is projected through the BF16 fc, but the engine would run the candidate's fc in FP8. "
            "Its acceptance cannot be told from this trace. Record one without --project, or repair the candidate."
        )
    if any(problems):
        raise TraceMismatchError("\n".join(filter(None, problems)))


def _misfit(trace: TargetTrace, part: str, side: Side) -> str:
    try:
        trace.require_fits(side.layout, side.checkpoint)
    except TraceMismatchError as error:
        return f"{part} {side.checkpoint.directory}: {error}"
    return ""
