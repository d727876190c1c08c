"""What a recipe may not say, though each value is well-formed: options that nobody would read, or that clash."""

from __future__ import annotations

from collections.abc import Iterator

from quark_eagle.documents.base import Document
from quark_eagle.job.recipe import Recipe, Release

Finding = tuple[tuple[str, ...], str]
"""Where in the recipe, as the names of its table and key, and what is wrong there."""


def contradictions(recipe: Recipe) -> list[Finding]:
    """All of them, in the recipe's order."""
    return [*_of_what_is_given(recipe), *_of_calibration(recipe), *_of_measuring(recipe), *_of_release(recipe)]


def _of_what_is_given(recipe: Recipe) -> Iterator[Finding]:
    if recipe.draft is None and not (recipe.fp8 and recipe.given_evidence):
        yield ("draft",), "the BF16 draft was needed. Name its directory or its Hugging Face id."
    if recipe.trace is not None and recipe.target is not None and not recipe.serves:
        yield ("trace",), "the target was recorded already, and nothing else needs it. Leave target out, or trace."
    if recipe.serves and recipe.target is None:
        yield ("target",), 'engine "vllm" serves it, but none is named. Name it.'
    if not recipe.quantizes:
        for name in ("quantize", "calibration"):
            for key in _said(getattr(recipe, name)):
                yield (name, key), "fp8 names a draft that is quantized already, so nobody reads this. Leave it out."
        if recipe.outputs.fp8 is not None:
            yield ("outputs", "fp8"), "fp8 names a draft that is there already, so none is written. Leave it out."
    if "doctor" in recipe.show and recipe.target is None:
        yield ("show",), "doctor sizes the job by its target, but none is named. Leave doctor out."
    if "recipe" in recipe.show and recipe.target is None:
        yield ("show",), "recipe says how a target is served, but none is named. Leave it out."


def _of_calibration(recipe: Recipe) -> Iterator[Finding]:
    if not recipe.quantizes:
        return
    if not recipe.calibrates:
        for key in _said(recipe.calibration):
            yield (
                ("calibration", key),
                f"scheme {recipe.quantize.scheme} scales activations as they come, so there is nothing to calibrate. "
                "Leave it out, choose a static scheme, or say kv_cache_scales = true.",
            )
    elif recipe.calibration.trace is None and recipe.target is None:
        yield (
            ("calibration", "trace"),
            f"scheme {recipe.quantize.scheme} is calibrated on what a target answers, but there is neither a trace of "
            "the calibration split nor a target to record. Name one of them.",
        )
    if recipe.calibration.trace is not None:
        for key in _said(recipe.calibration) & {"file", "limit", "max_tokens"}:
            yield ("calibration", key), "is for recording, but trace is recorded already. Leave one of them out."
    if recipe.calibration.percentile is not None and recipe.calibration.observer != "percentile":
        yield ("calibration", "percentile"), 'is for observer = "percentile". Say so, or leave it out.'


def _of_measuring(recipe: Recipe) -> Iterator[Finding]:
    if not recipe.measures:
        why = "it was before, as release.evidence says" if recipe.given_evidence else "there is no target and no trace"
        of_release = {"margin", "publish_anyway"} if recipe.given_evidence else set()
        for name in ("prompts", "recording", "engine", "gate"):
            for key in sorted(_said(getattr(recipe, name)) - (of_release if name == "gate" else set())):
                yield (name, key), f"nothing is measured here: {why}. Leave it out."
    elif recipe.trace is not None:
        for key in _said(recipe.recording):
            yield ("recording", key), "trace is recorded already. Leave it out, or trace."
        if not recipe.serves:
            for key in _said(recipe.prompts):
                yield ("prompts", key), "trace is recorded already, of prompts of its own. Leave it out, or trace."
    if recipe.engine.name != "vllm":
        for key in _said(recipe.engine) - {"name", "trust_remote_code"}:
            yield ("engine", key), 'is for name = "vllm". Say so, or leave it out.'
        if not recipe.recording.anchor:
            yield ("recording", "anchor"), 'is for engine "vllm", which serves the draft along. Leave it out.'
    elif _said(recipe.recording) & {"batch_size", "device"}:
        for key in _said(recipe.recording) & {"batch_size", "device"}:
            yield ("recording", key), "is for transformers; vLLM does that by itself. Leave it out."
    margin, wider = recipe.gate.margin or 0.01, recipe.gate.category_margin
    if wider is not None and wider < margin:
        yield ("gate", "category_margin"), f"{wider:g} was found, but at least the margin, {margin:g}, was needed."


def _of_release(recipe: Recipe) -> Iterator[Finding]:
    release = recipe.release
    if release is None:
        if recipe.outputs.bundle is not None:
            yield ("outputs", "bundle"), "nothing is released without a table [release]. Add one, or leave it out."
        return
    if not recipe.measures and not recipe.given_evidence:
        yield ("release",), "evidence was needed, but nothing is measured. Name target, trace or release.evidence."
    if recipe.given_evidence and recipe.fp8 is None:
        yield ("release", "evidence"), "is of a draft that is there already, but none is named. Name it as fp8."
    if release.verdict is not None and not recipe.given_evidence:
        yield ("release", "verdict"), "is on evidence that is there already, but none is named. Name evidence, too."
    if release.verdict is not None and recipe.gate.margin is not None:
        yield ("gate", "margin"), "the verdict on the evidence has its own. Leave it out, or release.verdict."
    yield from _of_signing(release)


def _of_signing(release: Release) -> Iterator[Finding]:
    if release.signing_key is None:
        for key in ("signing_password_env", "signing_certificate", "public_key"):
            if getattr(release, key) is not None:
                yield ("release", key), "nothing is signed without signing_key. Name it, or leave this out."
    elif release.keyless:
        yield ("release", "keyless"), "a bundle has one signature, and signing_key is named. Leave one of them out."
    elif release.signing_certificate is None and release.public_key is None:
        yield (
            ("release", "signing_key"),
            "public_key was needed with it, or the signature would go unchecked. Did you forget it? "
            "`openssl ec -in KEY -pubout -out key.pub.pem` makes it.",
        )
    elif release.signing_certificate is not None and release.public_key is not None:
        yield ("release", "public_key"), "the certificate vouches for the key already. Leave this out."
    if release.signing_certificate is not None and not release.certificate_chain:
        yield ("release", "signing_certificate"), "nobody vouches for it. Name certificate_chain too."
    if release.certificate_chain and release.signing_certificate is None:
        yield ("release", "certificate_chain"), "vouches for signing_certificate. Name it, or leave this out."
    if not release.keyless:
        for key in ("identity", "identity_provider"):
            if getattr(release, key) is not None:
                yield ("release", key), "is of a signature without a key. Say keyless = true, or leave this out."
    elif (release.identity is None) != (release.identity_provider is None):
        yield ("release", "keyless"), "identity and identity_provider say together who signs. Name both, or neither."


def _said(table: Document) -> set[str]:
    return set(table.model_fields_set)
