"""Bundles that were never released: the evidence of every kind of release about a tiny draft, on disk and whole.

A bundle holds what the rendered files are made of, and none of those: a test renders what it wants to look at. Drafts,
plans, documents and hashes are real and fit each other; only the counts are made up (`tests.reports`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from quark_eagle import __version__
from quark_eagle.checkpoint.manifest import RECORD_NAME
from quark_eagle.deploy.verify import verify
from quark_eagle.documents.base import sha256_of_prompts
from quark_eagle.documents.calibration import (
    CalibratedPrompt,
    CalibratedScale,
    Calibration,
    ChainTokens,
    ConvergencePoint,
    ObserverUsed,
    StepPeak,
)
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.release import (
    BoundTo,
    DraftIdentity,
    Environment,
    MeasuredWith,
    RecordedWith,
    ReleaseRecord,
)
from quark_eagle.documents.verdict import Verdict
from quark_eagle.fp8 import quantize_per_channel, quantize_per_tensor
from quark_eagle.parity.side import Side
from quark_eagle.quantize.activation_scales import ActivationScales
from quark_eagle.quantize.scheme import Scheme
from quark_eagle.release import contents
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.weight_statistics import measure
from tests.quantize.conftest import quantize, scales_for
from tests.reports import AT_PAR, WORSE, report, served_report, verdict_on
from tests.tiny import write_tiny_draft

HOSTILE = "a|b<script>alert(1)</script> **x** [y](javascript:z) `q` @team $w$"
HOSTILE_PATTERN = "*.down_proj'; touch pwned #\n`touch pwned` $(touch pwned) \\"
RELEASED = "2026-01-02"
_BOUND = ("This draft failed its gate, and is released in spite of that.", "Nothing was measured on gfx950.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What kind of release.

    Attributes:
        losses: of the candidate, as `tests.reports.report` takes them.
        is_served: whether the drafts were served; the replay is then given too.
        draft: changes to the tiny draft.
        rules: of the verdict.
        release: fields of release.json that are not as usual.
        names: of the candidate and of its categories.
    """

    losses: tuple[int, ...] = AT_PAR
    is_served: bool = False
    scheme: Scheme = Scheme.PTPC_FP8
    keep: tuple[str, ...] = ()
    draft: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    release: Mapping[str, Any] = field(default_factory=dict)
    candidate: str = "tiny-eagle3-fp8"
    categories: tuple[str, ...] = ("coding", "math")


VARIANTS: Mapping[str, Made] = {
    "pass": Made(),
    "override": Made(losses=WORSE, release={"overrides": list(_BOUND), "license": None, "license_source": None}),
    "served": Made(is_served=True, release={"target": "amd/Kimi-K2.5-MXFP4", "repo_id": "owner/tiny-eagle3-fp8"}),
    "static": Made(scheme=Scheme.FP8, keep=("*.o_proj",), rules={"margin": 0.02, "category_margin": 0.04}),
    "hostile": Made(
        categories=(HOSTILE, "---"),
        candidate=HOSTILE,
        release={
            "overrides": [f"Said of {HOSTILE}.", "---"],
            "license": "no",  # which YAML takes for a truth value
            "license_source": HOSTILE,
            "base_model": "name-of-a-draft",
            "base_model_revision": None,
            "target": "tiny-target",
        },
    ),
    "two layers": Made(draft={"num_layers": 2, "sharded": True}),
}
"""A bundle for every kind of release."""


class Definition:
    """In place of Quark: its arithmetic as `quark_eagle.fp8` writes it down, bit for bit, and 20 seconds less."""

    def quantize_rows(self, rows: Tensor, amax: Tensor | None = None) -> tuple[Tensor, Tensor]:
        made = quantize_per_channel(rows) if amax is None else quantize_per_tensor(rows, amax)
        return made.q, made.scale


def write_bundle(directory: Path, variant: str = "pass") -> Path:
    """Writes a bundle of this kind, without what is rendered; its BF16 draft lies beside it, in ``DIRECTORY.draft``."""
    made = VARIANTS[variant]
    draft = write_tiny_draft(directory.with_name(f"{directory.name}.draft"), **made.draft)
    calibration = _quantized(draft, directory, made)
    if variant == "hostile":
        _spoil_the_record(directory / RECORD_NAME)
    (directory / contents.EVIDENCE).mkdir()
    judged, replayed = _measured(draft, directory, made)
    verdict = verdict_on(judged, contents.PARITY, **made.rules)
    verdict = verdict.model_copy(update={"created": f"{RELEASED}T03:04:05+00:00"})
    record = json.loads((directory / RECORD_NAME).read_text(encoding="utf-8"))
    texts = {
        contents.PARITY: judged.to_json(),
        contents.REPLAYED: None if replayed is None else replayed.to_json(),
        contents.VERDICT: verdict.to_json(),
        contents.VERIFICATION: json.dumps(_verification(directory, draft), indent=1) + "\n",
        contents.WEIGHTS: measure(directory, draft).to_json(),
        contents.ENVIRONMENT: _environment(judged, replayed, record).to_json(),
        contents.CALIBRATION: None if calibration is None else calibration.to_json(),
        contents.RELEASE: _release(judged, verdict, made).to_json(),
    }
    for name, text in texts.items():
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
    return directory


def evidence_of(directory: Path, **changes: Any) -> Evidence:
    """The evidence of a bundle; ``changes`` are fields that a test wants otherwise."""
    return replace(Evidence.read(directory), **changes)


def _quantized(draft: Path, output: Path, made: Made) -> Calibration | None:
    """The FP8 draft, and what its static scales stand on."""
    calibration = _calibration(draft, made) if made.scheme.needs_calibration else None
    scales = None
    if calibration is not None:
        text = calibration.to_json()
        known = {
            "document_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "observer": calibration.observer.name,
            "prompts": [prompt.sha256 for prompt in calibration.prompts],
        }
        inputs = {it.module: it.scale for it in calibration.scales}
        scales = ActivationScales(inputs=inputs, calibration=known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quark_eagle.quantize.stage.load_quark", lambda scheme: Definition())
        quantize(draft, output, made.keep, scheme=made.scheme, activation_scales=scales)
    return calibration


def _calibration(draft: Path, made: Made) -> Calibration:
    arm = Side.open(draft).arm()
    prompts = [
        CalibratedPrompt(id=f"calib-{place}", category="coding", sha256=_sha256(f"calib-{place}"), num_tokens=24)
        for place in range(2)
    ]
    kept = tuple(pattern.removeprefix("*") for pattern in made.keep)
    return Calibration(
        schema_version=1,
        observer=ObserverUsed(name="min_max", quark_class="PerTensorMinMaxObserver", parameters={}),
        draft_weights_sha256=arm.weights_sha256,
        draft_config_sha256=arm.config_sha256,
        trace_sha256=_sha256("calibration trace"),
        target="tiny-target",
        split="calibration",
        num_speculative_tokens=3,
        dtype="bfloat16",
        engine="tests",
        arch="x86_64",
        num_tokens_of_step=[48, 32, 31],
        chain_tokens=ChainTokens(own_proposals=60, recorded=3, ended=1),
        scales=[
            _scale(name, scale)
            for name, scale in scales_for(draft).inputs.items()
            if not (kept and name.endswith(kept))
        ],
        outliers=[],
        prompts_sha256=sha256_of_prompts((it.id, it.category, "calibration", it.sha256) for it in prompts),
        prompts=prompts,
        command_line=["quark-eagle", "quantize"],
        versions={"quark_eagle": __version__},
    )


def _scale(module: str, scale: float) -> CalibratedScale:
    return CalibratedScale(
        module=module,
        kind="input",
        scale=scale,
        num_values=3072,
        absmax=scale * 448,
        percentile_99_99=scale * 224,
        outlier_ratio=2.0,
        num_clipped=0,
        num_flushed=5,
        convergence=[
            ConvergencePoint(num_tokens=24, scale=scale / 2),
            ConvergencePoint(num_tokens=48, scale=scale),
        ],
        peaks=[StepPeak(step=1, absmax=scale * 448, prompt="calib-1", position=7, channel=9)],
    )


def _spoil_the_record(path: Path) -> None:
    """Patterns and names that a shell, a page or a table might take for something else."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record["plan"]["keep"] = [HOSTILE_PATTERN]
    record["plan"]["decisions"][0]["reason"] = HOSTILE
    path.write_text(json.dumps(record), encoding="utf-8")


def _measured(draft: Path, bundle: Path, made: Made) -> tuple[ParityReport, ParityReport | None]:
    """The judged measurement, and the replay beside a served one: of these two drafts, with made-up counts."""
    arms = {
        "baseline": Side.open(draft, name="tiny-eagle3").arm(),
        "candidate": Side.open(bundle, name=made.candidate).arm(),
    }
    replayed = report(made.losses, categories=made.categories).model_copy(update=arms)
    replayed = _recorded(replayed)
    if not made.is_served:
        return replayed, None
    return served_report(made.losses).model_copy(update=arms), replayed


def _recorded(measured: ParityReport) -> ParityReport:
    """With a recording that says what a real one says, paths of its machine included."""
    told = {
        "target": {"name": "/home/releaser/models/tiny-target", "config_sha256": "0" * 64, "weights_sha256": None}
        | {"dtype": "bfloat16", "engine": "transformers 5.16.1", "device": "cpu", "num_hidden_layers": 12},
        "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 0, "max_tokens": 101},
        "recorded_with": {
            "prompts": {"source": "calib", "num_prompts": len(measured.prompts)},
            "versions": {"torch": "2.13.0+cpu"},
            "command_line": ["/home/releaser/.venv/bin/quark-eagle", "trace", "/home/releaser/models/tiny-target"],
        },
        "command_line": ["quark-eagle", "parity", "/home/releaser/draft", "/home/releaser/fp8"],
        "trace": "/home/releaser/trace",
    }
    return measured.model_copy(update={"provenance": measured.provenance.model_copy(update=told)})


def _verification(bundle: Path, draft: Path) -> dict[str, Any]:
    """By the rules of the newest engine that is known; nothing in it says where it was asked."""
    found = verify(bundle, draft, engine_version="0.32").to_json()
    return {**found, "directory": ".", "source": "tiny-eagle3"}


def _environment(judged: ParityReport, replayed: ParityReport | None, record: Mapping[str, Any]) -> Environment:
    recorded = RecordedWith(
        arch=None, engine="transformers 5.16.1", device="cpu", dtype="bfloat16", versions={"torch": "2.13.0+cpu"}
    )
    return Environment(
        schema_version=1,
        quantized=dict(record["versions"]),
        recorded=None if judged.served is not None else recorded,
        measured=_measured_with(judged),
        replayed=None if replayed is None else _measured_with(replayed),
        judged={"quark_eagle": __version__, "scipy": "1.16.0"},
        released={"quark_eagle": __version__},
    )


def _measured_with(report: ParityReport) -> MeasuredWith:
    said = report.provenance
    return MeasuredWith(
        measured_by=said.measured_by, arch=said.arch, engine=said.engine, dtype=said.dtype, versions=dict(said.versions)
    )


def _release(judged: ParityReport, verdict: Verdict, made: Made) -> ReleaseRecord:
    arms = {
        part: DraftIdentity(weights_sha256=arm.weights_sha256, config_sha256=arm.config_sha256)
        for part, arm in (("baseline", judged.baseline), ("candidate", judged.candidate))
    }
    usual: dict[str, Any] = {
        "name": "tiny-eagle3-fp8",
        "repo_id": None,
        "base_model": "owner/tiny-eagle3",
        "base_model_revision": "0123456789abcdef0123456789abcdef01234567",
        "license": "mit",
        "license_source": "the model card of owner/tiny-eagle3",
        "target": "owner/tiny-target",
        "required_arch": None,
        "overrides": [],
    }
    return ReleaseRecord(
        schema_version=1,
        released=RELEASED,
        bound_to=BoundTo(
            **arms,
            target_config_sha256=judged.provenance.target.get("config_sha256"),
            target_weights_sha256=None,
            trace_sha256=judged.provenance.trace_sha256,
            prompts_sha256=judged.provenance.prompts_sha256,
            parity_sha256=_sha256(judged.to_json()),
            verdict_sha256=_sha256(verdict.to_json()),
        ),
        versions={"quark_eagle": __version__},
        **(usual | dict(made.release)),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
