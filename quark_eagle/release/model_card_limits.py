"""What a release does not show, on the model card: said as plainly as what it does."""

from __future__ import annotations

from collections.abc import Iterator

from quark_eagle.parity.arch import measured_elsewhere
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_acceptance import measured_where
from quark_eagle.release.model_card_serving import ARCH
from quark_eagle.release.model_card_text import escape
from quark_eagle.reporting.wording import a_against_a, count

OWN_PROMPTS = "calib"
"""What a trace calls the prompts that come with quark-eagle (`quark_eagle.trace.prompts`)."""


def limits(evidence: Evidence) -> str:
    """The section."""
    return "\n\n".join(["## What this does not show", "\n".join(f"* {limit}" for limit in _limits(evidence))])


def on_shipping_hardware(evidence: Evidence) -> str:
    """Whether all of the evidence was measured on MI355X."""
    elsewhere = measured_elsewhere(evidence.parity, ARCH)
    return f"not measured ({ARCH})" if elsewhere else f"all of it was measured there ({ARCH})"


def _limits(evidence: Evidence) -> Iterator[str]:
    yield _hardware(evidence)
    yield "Speed: no tokens per second and no latency were measured. Fewer bytes are a bound of what can be gained."
    yield _how_it_was_counted(evidence)
    yield _sampling(evidence)
    yield _prompts(evidence)
    yield (
        "Engines: the check of the files applies rules that were read in the engine's source. `quark-eagle verify "
        "--engine vllm` asks the engine that you have."
    )
    if evidence.parity.served is not None:
        yield from (f"Serving: {escape(note)}" for note in evidence.parity.served.notes)


def _hardware(evidence: Evidence) -> str:
    elsewhere = measured_elsewhere(evidence.parity, ARCH)
    if not elsewhere:
        return f"Other hardware: all of it was measured on MI355X ({ARCH}); FP8 is not one arithmetic everywhere."
    return f"MI355X ({ARCH}): {escape(measured_where(evidence.parity))}. FP8 is not one arithmetic everywhere."


def _how_it_was_counted(evidence: Evidence) -> str:
    verdict = evidence.verdict
    if evidence.parity.served is None:
        bound = f" (±{verdict.bias.bound:.2%} of τ)" if verdict.bias.anchored else ""
        source = escape(verdict.bias.source)
        return (
            f"Serving: the drafts were replayed over the target's recorded path. Replay's own error{bound}: {source}."
        )
    if verdict.noise is None:
        return "Serving: how much it differs from itself is not known."
    return f"Serving: it differs from itself by {escape(a_against_a(verdict.noise))}."


def _sampling(evidence: Evidence) -> str:
    report = evidence.parity
    sampling = report.provenance.sampling
    said = [f"{name.replace('_', ' ')} {sampling[name]:g}" for name in ("temperature", "top_p") if name in sampling]
    if "max_tokens" in sampling:
        said.append(f"answers of at most {count(sampling['max_tokens'])} tokens")
    rest = f" ({escape(', '.join(said))})" if said else ""
    return (
        f"Other settings: it holds for k = {report.num_speculative_tokens} and the sampling of the measurement{rest}."
    )


def _prompts(evidence: Evidence) -> str:
    report = evidence.parity
    splits = evidence.verdict.evidence.splits if evidence.verdict.evidence is not None else {}
    asked = report.provenance.recorded_with.get("prompts")
    source = asked.get("source") if isinstance(asked, dict) else None
    own = " They come with quark-eagle, were written for it, and are CC0-1.0." if source == OWN_PROMPTS else ""
    told = ", ".join(f"{count(number)} of the {split} split" for split, number in splits.items())
    return (
        f"Other prompts: it holds for {told or count(len(report.prompts))} in {len(report.summary.categories)} "
        f"categories, and others like them.{own}"
    )
