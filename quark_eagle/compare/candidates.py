"""Candidate: one way to quantize a draft, and which ways there are to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.errors import TraceError, UsageError, findings
from quark_eagle.quantize.calibration.chosen_prompts import require_disjoint
from quark_eagle.quantize.calibration.observer import ObserverChoice
from quark_eagle.quantize.calibration.other_splits import of_other_splits
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.trace.target_trace import TargetTrace

SPLIT = "selection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scheme and, where activations are calibrated, what makes scales of them.

    Attributes:
        choice: of the observer; None where nothing is calibrated.
    """

    scheme: Scheme
    choice: ObserverChoice | None

    @property
    def name(self) -> str:
        """As the report calls it, and its directory."""
        if self.choice is None:
            return self.scheme.value
        percentile = "" if self.choice.percentile is None else f"{self.choice.percentile:g}"
        return f"{self.scheme.value}-{self.choice.observer.value}{percentile}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which linears are quantized, the same under every scheme.

    Attributes:
        keep: patterns of tensors or modules that stay as they are.
        quantize_fc: quantize fc too.
    """

    keep: tuple[str, ...] = ()
    quantize_fc: bool = False

    def plan(self, layout: Eagle3Layout, scheme: Scheme) -> QuantPlan:
        """What a scheme does with each tensor of a draft.

        Raises:
            QuarkEagleError: a pattern matches nothing, or splits what an engine fuses.
        """
        return QuantPlan.of(layout, scheme, self.keep, self.quantize_fc)


def candidates(
    schemes: Sequence[Scheme], choices: Sequence[ObserverChoice], *, kv_cache_scales: bool
) -> tuple[Candidate, ...]:
    """Each scheme once, or once for each observer if something of it is calibrated: activations, or the KV cache.

    >>> [it.name for it in candidates([Scheme.PTPC_FP8, Scheme.FP8], [ObserverChoice()], kv_cache_scales=False)]
    ['ptpc_fp8', 'fp8-min_max']
    """
    made = [
        Candidate(scheme=scheme, choice=choice)
        for scheme in schemes
        for choice in (choices if scheme.needs_calibration or kv_cache_scales else (None,))
    ]
    return tuple(dict.fromkeys(made))


def require_calibration(made: Sequence[Candidate], calibration: TargetTrace | None) -> None:
    """See that there is something to calibrate on.

    Raises:
        UsageError: a candidate needs it, and there is nothing.
    """
    needing = [it.scheme.value for it in made if it.choice is not None]
    if needing and calibration is None:
        raise UsageError(
            f"--calibration: not given, but {', '.join(dict.fromkeys(needing))} writes scales of activations into the "
            "draft, and there is nothing to observe them on. Record a trace with `quark-eagle trace TARGET --draft "
            "DRAFT --split calibration --output TRACE`, or compare --schemes ptpc_fp8 alone."
        )


def require_selection(selection: TargetTrace, calibration: TargetTrace | None) -> None:
    """See that schemes are compared on prompts that serve nothing else, whatever their labels say.

    A scheme that was chosen on the prompts of a verdict looks better there than it is, and so does one on the prompts
    that it was calibrated on.

    Raises:
        TraceError: they are of another split, one of the packaged parity or calibration prompts, or of the trace that
            is calibrated on; all of them are listed.
    """
    problems = of_other_splits(selection, SPLIT, [] if calibration is None else [(calibration, "calibrated on")])
    if problems:
        advice = (
            "Prompts of the split parity must stay unseen until the verdict, and a scheme flatters itself on those it "
            f"was calibrated on. Record a trace with `quark-eagle trace TARGET --draft DRAFT --split {SPLIT}`."
        )
        raise TraceError(findings(f"{selection.directory}: schemes cannot be compared on it", problems, advice))
    if calibration is not None:
        require_disjoint(calibration, [selection])
