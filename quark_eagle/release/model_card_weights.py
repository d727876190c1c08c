"""What was quantized and what was not, on the model card: tensors of one fate and dtype are one row."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quark_eagle.documents.parity import Arm, ParityReport
from quark_eagle.documents.weights import ModuleWeights, WeightStatistics
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_text import change, code, escape, table
from quark_eagle.reporting.wording import NOTHING, Row, count, percent

_HEADERS = ("what", "tensors", "dtype", "bytes before", "bytes after", "why", "of it")
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def weights(evidence: Evidence) -> str:
    """The section: a table of tensors, and bytes of the files and of a draft step."""
    groups: dict[tuple[str, str | None, str, str], list[ModuleWeights]] = {}
    for it in sorted(evidence.weights.modules, key=lambda it: (it.action == "keep", it.reason, it.tensor)):
        groups.setdefault((it.action, it.dtype_before, it.dtype_after, it.reason), []).append(it)
    rows = [_row(tensors) for tensors in groups.values()]
    parts = [
        "## What was quantized",
        _granularity(evidence.weights.modules),
        table(_HEADERS, [*rows, *_cache_scales(evidence.weights), _total(evidence.weights)], right=(1, 3, 4)),
        f"Bytes of quantized weights hold their scales. Every tensor by itself is in `{contents.WEIGHTS}`.",
        *_step(evidence),
    ]
    return "\n\n".join(parts)


def _granularity(tensors: Sequence[ModuleWeights]) -> str:
    """What shares a scale, as the scales in the file are."""
    quantized = [it for it in tensors if it.scales is not None]
    by_channel = sum(it.scales is not None and it.scales.count == it.shape[0] > 1 for it in quantized)
    static = sum(it.input_scale is not None for it in quantized)
    each = {len(quantized): "a scale for each output channel", 0: "one scale for each tensor"}
    of_activations = {
        len(quantized): "a static one for each module, calibrated",
        0: "one for each token, made as it comes",
    }
    return (
        f"Weights have {each.get(by_channel, 'scales of both kinds, by channel and by tensor')}, activations "
        f"{of_activations.get(static, 'static ones for some modules, and for others one for each token')}."
    )


def _row(tensors: Sequence[ModuleWeights]) -> Row:
    first = tensors[0]
    return (
        "quantized" if first.action == "quantize" else "kept",
        count(len(tensors)),
        first.dtype_after
        if first.dtype_before in (None, first.dtype_after)
        else f"{first.dtype_before} → {first.dtype_after}",
        _sum([it.size_bytes_before for it in tensors]),
        _sum([it.size_bytes_after for it in tensors]),
        first.reason,
        ", ".join(dict.fromkeys(_short(it.tensor) for it in tensors)),
    )


def _cache_scales(found: WeightStatistics) -> list[Row]:
    """Tensors that the original draft does not have, if there are any."""
    if not found.cache_scales:
        return []
    number, size = count(len(found.cache_scales)), count(found.cache_scales_bytes)
    return [("added", number, "F32", NOTHING, size, "calibrated", "scales of an FP8 KV cache")]


def _total(found: WeightStatistics) -> Row:
    number = count(len(found.modules) + len(found.cache_scales))
    return ("all", number, "", _sum([found.size_bytes_before]), count(found.size_bytes_after), "", "")


def _sum(sizes: Sequence[int | None]) -> str:
    known = [it for it in sizes if it is not None]
    return count(sum(known)) if len(known) == len(sizes) else NOTHING


def _short(tensor: str) -> str:
    """A tensor's name without the number of its layer, or what all weights are called.

    >>> _short("model.layers.0.self_attn.q_proj.weight"), _short("d2t")
    ('self_attn.q_proj', 'd2t')
    """
    name = tensor.removesuffix(".weight")
    return re.sub(r"^(model\.)?(layers\.\d+|midlayer)\.", "", name)


def _step(evidence: Evidence) -> list[str]:
    """What a draft step reads, part by part: where FP8 saves, and where it cannot."""
    report, worth = evidence.parity, evidence.verdict.worth
    parts = (("layers", "layers"), ("LM head", "head"), ("embedding, one row", "embedding"))
    rows = [(what, *_bytes(report, name)) for what, name in parts]
    before, after = (arm.step_bytes.every_step for arm in (report.baseline, report.candidate))
    rows.append(("every step", count(before), count(after), change(before, after)))
    rows.append(("fc and its norms, first step of a round", *_bytes(report, "first_step")))
    return [
        "Bytes of weights that a draft step reads, which is what it costs at small batches:",
        table(("", "before", "after", "change"), rows, right=(1, 2, 3)),
        *([] if worth is None else [escape(worth.sentence)]),
    ]


def _bytes(report: ParityReport, part: str) -> tuple[str, str, str]:
    def of(arm: Arm) -> int:
        return int(getattr(arm.step_bytes, part))

    before, after = of(report.baseline), of(report.candidate)
    return count(before), count(after), change(before, after)


def calibration(evidence: Evidence) -> str:
    """The section about static scales; empty where every token has its own."""
    found = evidence.calibration
    if found is None:
        return ""
    judged = {prompt.sha256 for prompt in evidence.parity.prompts}
    shared = sum(prompt.sha256 in judged for prompt in found.prompts)
    set_to = "".join(f", {name} {value:g}" for name, value in found.observer.parameters.items())
    clipped, seen = (sum(getattr(it, name) for it in found.scales) for name in ("num_clipped", "num_values"))
    outliers = ", ".join(map(code, found.outliers)) or "none"
    growth = max((it.late_growth for it in found.scales), default=0.0)
    rows = [
        ("observer", f"{found.observer.name} ({found.observer.quark_class} of AMD Quark{set_to})"),
        ("prompts", f"{count(len(found.prompts))} of the {found.split} split; {shared} of them were judged on as well"),
        ("tokens seen by steps 1, 2, …", ", ".join(map(count, found.num_tokens_of_step))),
        (
            "scales",
            f"{count(len(found.scales))}; the largest change over the second half of the tokens is {percent(growth)}",
        ),
        ("values clipped", f"{count(clipped)} of {count(seen)}"),
        ("computed", f"in {found.dtype} by {found.engine} on {found.arch}"),
    ]
    return "\n\n".join(
        [
            "## Calibration",
            "Activations have static scales, observed on the original draft's own forward pass over recorded states.",
            table(("", ""), rows),
            f"Modules whose scale a few outliers decide: {outliers}. Every scale is in `{contents.CALIBRATION}`.",
        ]
    )
