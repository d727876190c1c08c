"""The model card: what a person who has twenty seconds has to know first, and everything that they may ask next.

It says what the evidence in the bundle says and nothing else: no number stands in it that is not in a file beside it
or worked out from one. Verdicts are worded by `quark_eagle.reporting.wording`, as everywhere, so that the card cannot
contradict the console. Names come from files that a stranger may have written, and are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_acceptance import acceptance, measured_where
from quark_eagle.release.model_card_limits import limits, on_shipping_hardware
from quark_eagle.release.model_card_metadata import metadata
from quark_eagle.release.model_card_serving import serving
from quark_eagle.release.model_card_text import code, escape, link, shell, sizes, table
from quark_eagle.release.model_card_weights import calibration, weights
from quark_eagle.reporting.wording import NOTHING, bounds, count, headline, percent, warnings

_SHOWN = 10  # findings of the engine's rules; a reader needs the kinds, and the file has all of them


def model_card(evidence: Evidence) -> str:
    """The text of README.md: metadata in YAML, as the Hugging Face hub reads it, and a page in Markdown.

    The same evidence gives the same bytes. It ends with one newline.
    """
    from huggingface_hub import ModelCard  # a fifth of a second, and only a release needs it

    page = "\n\n".join(part for part in _parts(evidence) if part)
    return str(ModelCard(f"---\n{metadata(evidence).to_yaml()}\n---\n\n{page}\n"))


def _parts(evidence: Evidence) -> Iterator[str]:
    yield _set_aside(evidence)
    yield f"# {escape(evidence.release.name)}"
    yield _what_it_is(evidence)
    yield f"**{escape(headline(evidence.verdict))}**"
    yield "\n".join(f"{place}. {escape(cause)}." for place, cause in enumerate(evidence.verdict.causes, 1))
    yield from (f"**{escape(warning)}**" for warning in warnings(evidence.verdict))
    yield table(("", ""), _at_a_glance(evidence))
    yield serving(evidence)
    yield acceptance(evidence)
    yield weights(evidence)
    yield calibration(evidence)
    yield _checked(evidence)
    yield _reproduce(evidence)
    yield limits(evidence)


def _set_aside(evidence: Evidence) -> str:
    """A box above everything else, if rules of a release were set aside for this one."""
    overrides = evidence.release.overrides
    if not overrides:
        return ""
    lines = ["[!WARNING]", "**Released in spite of the rules of a release, which were set aside:**", ""]
    return "\n".join(f"> {line}".rstrip() for line in [*lines, *(f"* {escape(sentence)}" for sentence in overrides)])


def _what_it_is(evidence: Evidence) -> str:
    release, plan = evidence.release, evidence.record["plan"]
    quantized = sum(it.action == "quantize" for it in evidence.weights.modules)
    return (
        f"The Eagle3 draft {link(release.base_model, release.base_model_id)} in FP8 ({code(str(plan['scheme']))}), for "
        f"speculative decoding with {link(release.target, release.target_id)}: {quantized} of its "
        f"{len(evidence.weights.modules)} tensors quantized with AMD Quark, the others as they were. It only proposes: "
        "which tokens are emitted the target decides."
    )


def _at_a_glance(evidence: Evidence) -> list[tuple[str, str]]:
    verdict, release = evidence.verdict, evidence.release
    found, worth = verdict.difference, verdict.worth
    rows: list[tuple[str, str]] = []
    if found is not None:
        before, after = found.baseline_mean_acceptance_length, found.candidate_mean_acceptance_length
        rows.append(
            ("acceptance length τ", f"{before:.3f} before, {after:.3f} after (tokens per round, bonus included)")
        )
        interval = found.interval
        tail = "" if interval is None else f", {interval.confidence:.0%} interval {bounds(interval)}"
        rows.append(("change of τ", f"{percent(found.estimate)}{tail}"))
    rows.append(("margin", f"a loss of up to {verdict.margin:.2%} of τ is parity; {verdict.alpha:.1%} error each way"))
    rows.append(("measured", _how_much(evidence)))
    rows.append(("measured on", measured_where(evidence.parity)))
    rows.append(("on MI355X", on_shipping_hardware(evidence)))
    record = evidence.record
    rows.append(("weights on disk", sizes(record["tensors_before_bytes"], record["tensors_after_bytes"])))
    if worth is not None:
        rows.append(("weights a draft step reads", sizes(worth.baseline_step_bytes, worth.candidate_step_bytes)))
    checked = evidence.verification
    told = f"{checked['verdict']}, {checked['num_errors']} errors, {checked['num_warnings']} warnings"
    rows.append(("as an engine loads it", f"{told} (rules of {checked['engine']})"))
    rows.append(("licence", _licence(evidence)))
    rows.append(("released", release.released))
    return rows


def _how_much(evidence: Evidence) -> str:
    found, report = evidence.verdict.difference, evidence.parity
    conversations = "" if found is None else f"{count(found.num_conversations)} conversations of "
    how = "replayed" if report.served is None else "served"
    temperature = report.provenance.sampling.get("temperature")
    sampled = "" if temperature is None else f", temperature {temperature:g}"
    return f"{conversations}{count(len(report.prompts))} prompts, {how}, k = {report.num_speculative_tokens}{sampled}"


def _licence(evidence: Evidence) -> str:
    release = evidence.release
    if release.license is None:
        return "not known: nobody has said under which licence the original draft is"
    return f"{release.license} (by {release.license_source or NOTHING})"


def _checked(evidence: Evidence) -> str:
    """What an engine would make of the files, by its rules."""
    found = evidence.verification
    modules = found.get("modules", [])
    in_fp8 = sum(bool(module.get("scheme")) for module in modules)
    compared = ", every tensor held against the original draft" if found.get("source") else ""
    said = (
        f"By the loading rules of {escape(str(found['engine']))}, by code that is not the writer's{compared}: "
        f"**{escape(str(found['verdict']))}**, {len(modules)} modules of which {in_fp8} in FP8, "
        f"{found['num_errors']} errors, {found['num_warnings']} warnings."
    )
    findings = [
        f"* {escape(it['severity'])}: {escape(it['subject'])}: {escape(it['message'])}" for it in found["findings"]
    ]  # errors first
    if len(findings) > _SHOWN:
        more = f"* and {len(findings) - _SHOWN} more in `{contents.VERIFICATION}`"
        findings = [*findings[:_SHOWN], more]
    versions = evidence.environment.quantized
    made = ", ".join(f"{escape(name)} {escape(version)}" for name, version in sorted(versions.items()))
    return "\n\n".join(
        ["## How it was checked", said, *(["\n".join(findings)] if findings else []), f"Quantized with {made}."]
    )


def _reproduce(evidence: Evidence) -> str:
    bound = evidence.release.bound_to
    hashes = [
        ("original draft", bound.baseline.weights_sha256),
        ("this draft", bound.candidate.weights_sha256),
        ("target's config", bound.target_config_sha256),
        ("target's weights", bound.target_weights_sha256),
        ("trace", bound.trace_sha256),
        ("prompts", bound.prompts_sha256),
        ("measurement", bound.parity_sha256),
        ("verdict", bound.verdict_sha256),
    ]
    return "\n\n".join(
        [
            "## How to check this page",
            "Every number on it comes from a file in this repository, most from `evidence/`. This hashes all files, "
            "works the verdict out again from the counts of every prompt, renders this page again, and compares:",
            shell("quark-eagle verify-release ."),
            f"With `--public-key` it checks the signature in `{contents.SIGNATURE}` too, if there is one; without "
            f"quark-eagle, `sha256sum -c {contents.SUMS}` checks the files alone.",
            f"`{contents.SCRIPT}` is the whole job from the original draft to the verdict, with the options of this "
            f"release; it compares the sha256 of what it makes with these files. `{contents.REPORT}` has the plots.",
            "The evidence is about these, by sha256:",
            table(("", "sha256"), [(what, sha256 or "not taken") for what, sha256 in hashes]),
        ]
    )
