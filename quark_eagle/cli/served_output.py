"""What `quark-eagle parity --engine vllm` prints besides the rates: passes, noise, losslessness, what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quark_eagle.cli.counts import count, rate

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.documents.served import Losslessness, Served, ServedArm

LISTED = 5


def show_served(report: ParityReport, served: Served) -> None:
    """Print how the counts came about and what speaks for or against them."""
    from quark_eagle.cli import render
    from quark_eagle.reporting.wording import a_against_a

    order = f"{served.num_blocks} blocks, {served.layout}, {served.concurrency} requests at a time"
    render.say(f"\nserved: {order}; in time: {', '.join(served.order)}")
    headers = ("arm", "passes", "requests", "tried again", "failed", "tokens", "s", "loads, s each", "τ of each block")
    rows = [_row(arm, report, served) for arm in served.arms]
    render.show(render.table(headers, rows, right=range(1, 7)))
    if served.noise is not None:
        render.say(f"\nServing's own noise: {a_against_a(served.noise)}.")
    for found in served.lossless:
        render.say(lossless_sentence(found))
    for note in served.notes:
        render.say(note)
    for left in served.left_out[:LISTED]:
        render.say(f"Left out of both: {left.id} ({left.arm}, block {left.block + 1}): {left.why}")
    if len(served.left_out) > LISTED:
        render.say(f"… and {len(served.left_out) - LISTED} more (served.left_out).")
    unknown = {name for arm in served.arms for name in arm.unknown}
    if unknown:
        render.say(f"The servers do not say, so it may differ between them: {', '.join(sorted(unknown))}.")
    render.say()


def lossless_sentence(found: Losslessness) -> str:
    """How many answers are the target's own, and what the others are."""
    equal = f"{count(found.num_equal)} of {count(found.num_compared)} answers with the {found.arm} are the target's own"
    if found.num_equal == found.num_compared:
        return f"Lossless: {equal}, token for token."
    ties = f"{count(found.num_ties)} first differ where its logits are within {found.tie_margin:g} of a tie"
    if not found.real:
        return f"Lossless but for ties: {equal}; {ties}."
    first, real = found.real[0], count(len(found.real))
    others = f"{ties}, and {real} where they are not" if found.tie_margin else f"{real} differ"
    return (
        f"NOT LOSSLESS: {equal}; {others}, first prompt {first.prompt} at position {first.position}: token "
        f"{first.found} for {first.expected}."
    )


def _row(arm: ServedArm, report: ParityReport, served: Served) -> tuple[str, ...]:
    own = [one for one in served.passes if one.arm == arm.arm]
    return (
        {"none": "target alone"}.get(arm.arm, arm.arm),
        str(len(own)),
        count(sum(one.num_requests for one in own)),
        count(sum(one.num_retries for one in own)),
        count(sum(one.num_failed for one in own)),
        count(sum(one.num_generated_tokens for one in own)),
        f"{sum(one.seconds for one in own):.0f}",
        " ".join(f"{seconds:.0f}" for seconds in arm.load_seconds) or "–",
        _taus(arm.arm, report),
    )


def _taus(arm: str, report: ParityReport) -> str:
    """τ of each block, over all prompts that count."""
    from quark_eagle.parity.noise import block_taus

    found = None if arm == "none" else block_taus([getattr(prompt, arm) for prompt in report.prompts])
    return "–" if found is None else " ".join(rate(float(tau)) for tau in found)
