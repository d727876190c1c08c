"""Every family through the whole command line: inspected, verified, traced for, replayed, judged and explained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.parity import ParityReport
from tests.deploy.export import Export
from tests.published import PUBLISHED
from tests.tiny import TinyDraft, write_tiny_draft
from tests.tiny_trace import write_tiny_trace

AUX_LAYERS = (2, 5, 8)
# A vocabulary of eight tokens: a draft of random weights is then right now and then.
DRAFTS: dict[str, TinyDraft] = {
    name: replace(PUBLISHED[name], embed_tokens=False, draft_vocab=8, aux_layer_ids=AUX_LAYERS)
    for name in (
        "Kimi-K2.6: MLA, EAGLE-3.1",
        "MLA, two layers",
        "Qwen3, three layers",
        "speculators, gpt-oss: `norm_before_fc`, yarn without `truncate`",
        "MiniMax-M3: EAGLE-3.1 (`fc_norm`, `norm_output`)",
        "NVIDIA ModelOpt: `eagle_config`",
        "Kimi-K2.5: yarn, a KV head for each head, the whole vocabulary",
    )
}


@pytest.fixture(scope="module", params=DRAFTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """BF16 draft, FP8 draft and trace."""
    directory, draft = tmp_path_factory.mktemp("family"), DRAFTS[request.param]
    baseline = write_tiny_draft(directory / "draft", draft)
    return baseline, Export(draft).write(directory / "fp8"), write_tiny_trace(directory / "trace", baseline)


def run(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def test_a_draft_is_inspected_and_its_fp8_verified(pair: tuple[Path, Path, Path]) -> None:
    draft, fp8, _ = pair
    for directory in (draft, fp8):
        code, seen = run("inspect", directory)
        assert code == 0
        assert seen["support"]["replay"]["ok"], seen["support"]
        assert seen["support"]["load"]["ok"], seen["support"]
    code, verdict = run("verify", fp8, "--source", draft)
    assert (code, verdict["verdict"]) == (0, "ok")


def test_a_draft_is_replayed_judged_and_explained(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    draft, fp8, trace = pair
    path = tmp_path / "parity.json"
    assert run("parity", draft, fp8, "--trace", trace, "--output", path)[0] == 0
    report = ParityReport.read(path)
    walk = report.summary.overall.walk
    assert walk.baseline.mean_acceptance_length > 1.5
    assert walk.candidate.mean_acceptance_length > 1.2
    assert report.candidate.step_bytes.every_step < report.baseline.step_bytes.every_step
    assert run("gate", path)[0] == 4  # four conversations decide nothing
    code, told = run("explain", path, "--baseline", draft, "--candidate", fp8, "--trace", trace)
    assert code == 0
    assert told["contexts"]["divergence_at_step_1"]["num_not_finite"] == 0
