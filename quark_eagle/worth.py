"""Worth: what FP8 can gain, next to what the margin lets it lose. It may say "not worth it".

At small batches a step takes as long as its weights take to arrive from memory, so a draft step of FP8 takes
bytes_fp8 / bytes_bf16 of the time: an upper bound of the gain, for a step also launches kernels. A round of k draft
steps d and one target step T emits τ tokens in T + k d; at equal τ the gain is (T + k d) / (T + k d') - 1, and it is
gone when τ falls by 1 - (T + k d') / (T + k d).
"""

from __future__ import annotations

from quark_eagle.documents.parity import Arm, ParityReport
from quark_eagle.documents.verdict import Worth
from quark_eagle.errors import UsageError

# AMD, vLLM blog of 2026-07-13, Kimi-K2.5 on MI355X at concurrency 4 … 64: FP8 draft over BF16 draft, throughput. Their
# words: builds differ, "not a controlled precision comparison".
PUBLISHED_GAIN = (0.004, 0.052)
_PUBLISHED = "AMD's published throughput for Kimi-K2.5 on MI355X, which AMD calls no controlled comparison"


def worth(
    report: ParityReport, *, margin: float, target_step_ms: float | None = None, draft_step_ms: float | None = None
) -> Worth:
    """What the candidate's smaller step is worth.

    Args:
        report: of the measurement, which holds both drafts' bytes and k.
        margin: the loss of τ that the gate lets pass.
        target_step_ms: time of the target's verification step; with ``draft_step_ms``, or the published figures serve.
        draft_step_ms: time of one step of the BF16 draft.

    Raises:
        UsageError: one of the times is given without the other, or is not positive.
    """
    before, after = report.baseline.step_bytes.every_step, report.candidate.step_bytes.every_step
    gain, source = _gain(report, target_step_ms, draft_step_ms)
    losses = (1 - 1 / (1 + gain[0]), 1 - 1 / (1 + gain[1]))
    half = margin <= gain[0] / 2
    head = report.candidate.step_bytes.head / after
    weights = (
        f"a draft step reads {before / 1e6:,.1f} MB before and {after / 1e6:,.1f} MB after "
        f"({after / before - 1:+.1%}), of which the LM head is {head:.0%}"
    )
    gains = (
        f"By {source}, that gains {_range(gain)}, gone when τ falls by {_range(losses)}; a margin of {margin:.2%} is "
        f"{'at most' if half else 'more than'} half of {'it' if gain[0] == gain[1] else 'the least of it'}."
    )
    return Worth(
        baseline_step_bytes=before,
        candidate_step_bytes=after,
        head_share=head,
        gain=gain,
        break_even_loss=losses,
        source=source,
        margin_is_at_most_half=half,
        sentence=f"Worth: {weights}. {gains if after < before else 'That gains nothing: any loss of τ is a loss.'}",
    )


def _gain(
    report: ParityReport, target_step_ms: float | None, draft_step_ms: float | None
) -> tuple[tuple[float, float], str]:
    """(gain of throughput at equal τ, least and most; where it is from)."""
    if target_step_ms is None and draft_step_ms is None:
        smaller = report.candidate.step_bytes.every_step < report.baseline.step_bytes.every_step
        return (PUBLISHED_GAIN, _PUBLISHED) if smaller else ((0.0, 0.0), "no fewer bytes")
    if target_step_ms is None or draft_step_ms is None or target_step_ms <= 0 or draft_step_ms <= 0:
        raise UsageError("--target-step-ms and --draft-step-ms: both were needed, in milliseconds above 0, or neither.")
    k = report.num_speculative_tokens
    before = target_step_ms + draft_step_ms * _steps(report.baseline, report.baseline, k)
    after = target_step_ms + draft_step_ms * _steps(report.candidate, report.baseline, k)
    gain = before / after - 1
    source = f"the stated times (target {target_step_ms:g} ms, BF16 draft step {draft_step_ms:g} ms, k = {k})"
    return (gain, gain), source


def _steps(arm: Arm, unit: Arm, k: int) -> float:
    """Time of a round's k draft steps, in steps of `unit`: bytes over bytes, `fc` once."""
    return (k * arm.step_bytes.every_step + arm.step_bytes.first_step) / unit.step_bytes.every_step


def _range(fractions: tuple[float, float]) -> str:
    low, high = fractions
    return f"{low:.2%}" if low == high else f"{low:.1%} … {high:.1%}"
