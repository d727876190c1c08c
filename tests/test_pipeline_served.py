"""The whole job where a draft is served as well: what is continued and served, and that both verdicts are heard."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quark_eagle import pipeline
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.documents.anchor import ANCHOR_NAME, Anchor
from quark_eagle.documents.parity import ParityReport
from quark_eagle.documents.verdict import Verdict
from quark_eagle.errors import EngineError, UsageError
from quark_eagle.serve_options import ServeOptions
from quark_eagle.trace.prompts import Prompt, PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.vllm_options import VllmOptions
from tests.reports import AT_PAR, served_report
from tests.test_pipeline import NAIVE, calibrating_the_cache, fake_stage, run, trust_the_files
from tests.test_pipeline import pair as pair  # a fixture is found by its name
from tests.test_pipeline import staging_with as staging_with
from tests.tiny_trace import write_tiny_trace

SERVING_ALONG = RecordOptions(vllm=VllmOptions())


@pytest.fixture
def served_along(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole recording with a draft served at k = 2 beside OUT, as a run leaves it that is ended before the anchor."""
    directory = write_tiny_trace(tmp_path / "out.trace", pair[0], num_prompts=64, served_k=2)
    asked = tuple(
        Prompt(id=it.id, category=it.category, split=it.split, messages=(), sha256=it.sha256)
        for it in TargetTrace.open(directory).prompts
    )
    monkeypatch.setattr(PromptSet, "load", lambda path, split: PromptSet(prompts=asked, source="calib"))
    monkeypatch.setattr(
        "quark_eagle.parity.anchor.is_recording_of",
        lambda trace, target, draft, prompts, options: (
            (trace.target.name, trace.document.prompts_sha256) == (target, prompts.sha256)
        ),
    )
    return directory


def test_a_run_that_ended_before_the_anchor_is_continued_there(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], served_along: Path
) -> None:
    checked = run(pair[0], tmp_path / "out", target="tiny-target", options=SERVING_ALONG)
    assert Anchor.read(served_along / ANCHOR_NAME).matches
    assert checked.published
    assert checked.report.provenance.anchor is not None
    assert checked.report.num_speculative_tokens == 2  # the anchor's own k, since no other was asked for
    with pytest.raises(UsageError, match=r"was recorded before. Measure on it with --trace"):
        run(pair[0], tmp_path / "out", target="tiny-target", options=SERVING_ALONG, overwrite=True)


@pytest.mark.parametrize(
    "given",
    [
        {"target": "another", "options": SERVING_ALONG},
        {"target": "tiny-target", "options": SERVING_ALONG, "limit": 5},
        {"target": "tiny-target", "options": RecordOptions(vllm=VllmOptions(serves_draft=False))},
        {"target": "tiny-target"},
    ],
)
def test_what_another_command_recorded_is_not_continued(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], served_along: Path, given: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"was recorded before"):
        run(pair[0], tmp_path / "out", **given)
    assert not (served_along / ANCHOR_NAME).exists()
    assert staging_with == []


def test_drafts_are_served_at_the_k_of_the_trace(
    pair: tuple[Path, Path],
    tmp_path: Path,
    staging_with: list[Path],
    served_along: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two verdicts on one draft have to be about one k; unless the trace has none, which leaves it to the recipe."""
    asked: list[object] = []

    def open_served(drafts: object, serve: object, *, num_speculative_tokens: int | None, **options: object) -> Any:
        asked.append(num_speculative_tokens)
        return SimpleNamespace(run=lambda **options: served_report(AT_PAR))

    monkeypatch.setattr(pipeline, "open_served", open_served)
    serve = ServeOptions(target="tiny-target")
    run(pair[0], tmp_path / "one", trace=served_along, serve=serve)
    run(pair[0], tmp_path / "two", trace=served_along, serve=serve, num_speculative_tokens=3)
    run(pair[0], tmp_path / "three", trace=pair[1], serve=serve)
    assert asked[1::2] == [2, 3, None]  # looked at first, served later


def test_a_draft_with_scales_of_an_fp8_cache_is_served_as_it_is_replayed(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def open_served(drafts: object, serve: object, **options: object) -> Any:
        asked.append(options["kv_cache_dtype"])
        return SimpleNamespace(run=lambda **options: served_report(AT_PAR))

    monkeypatch.setattr(pipeline, "open_served", open_served)
    serve = ServeOptions(target="tiny-target")
    run(pair[0], tmp_path / "one", trace=pair[1], serve=serve, calibrating=calibrating_the_cache())
    run(pair[0], tmp_path / "two", trace=pair[1], serve=serve)
    assert asked == ["fp8", "fp8", "auto", "auto"]  # looked at first, served later


def served_as(monkeypatch: pytest.MonkeyPatch, report: ParityReport) -> list[tuple[Path, Path]]:
    """Lets an engine have counted this; the pairs of drafts that it was asked about."""
    asked: list[tuple[Path, Path]] = []

    def open_served(drafts: tuple[Path, Path], serve: ServeOptions, **options: object) -> Any:
        asked.append(drafts)
        return SimpleNamespace(run=lambda **options: report)

    monkeypatch.setattr(pipeline, "open_served", open_served)
    return asked


@pytest.mark.parametrize(
    ("counts", "outcome", "published", "exit_code"),
    [
        (AT_PAR, "pass", True, 0),
        ((28, 30) * 40, "fail", False, 3),
        ((0, 28, 0, 22) * 16, "inconclusive", True, 0),
        ((0, 30, 0, 22) * 16, "inconclusive", False, 4),  # the loss that was found is beyond the margin
        ((0, 28, 0, 20) * 4, "inconclusive", False, 4),  # too few conversations decide nothing
    ],
)
def test_a_loss_that_only_serving_shows_is_not_published(
    pair: tuple[Path, Path],
    tmp_path: Path,
    staging_with: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    counts: Any,
    outcome: str,
    published: bool,
    exit_code: int,
) -> None:
    asked = served_as(monkeypatch, served_report(counts))
    checked = run(pair[0], tmp_path / "out", trace=pair[1], serve=ServeOptions(target="t"))
    assert checked.replayed.verdict.outcome == "pass"
    assert checked.served is not None
    assert checked.served.verdict.outcome == outcome
    assert (checked.published, checked.exit_code) == (published, exit_code)
    assert (tmp_path / "out.served.parity.json").is_file()
    assert Verdict.read(tmp_path / "out.verdict.json").exit_code == exit_code
    assert [drafts[0] for drafts in asked] == [Checkpoint.open(pair[0]).directory] * 2  # looked at first, served later
    assert checked.to_json()["served"]["verdict"]["outcome"] == outcome


def test_what_replay_refuses_is_not_served(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stage(monkeypatch, NAIVE)
    trust_the_files(monkeypatch)
    asked = served_as(monkeypatch, served_report(AT_PAR))
    checked = run(pair[0], tmp_path / "out", trace=pair[1], serve=ServeOptions(target="t"))
    assert (checked.served, len(asked), checked.exit_code) == (None, 1, 3)  # looked at, and not served


def test_a_verdict_is_there_only_once_all_has_been_heard(
    pair: tuple[Path, Path], tmp_path: Path, staging_with: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served_as(monkeypatch, served_report(AT_PAR))
    run(pair[0], tmp_path / "out", trace=pair[1], serve=ServeOptions(target="t"))

    def dies(**options: object) -> ParityReport:
        raise EngineError("http://127.0.0.1:8000: the server ended")

    monkeypatch.setattr(pipeline, "open_served", lambda *given, **options: SimpleNamespace(run=dies))
    with pytest.raises(EngineError):
        run(pair[0], tmp_path / "out", trace=pair[1], serve=ServeOptions(target="t"), overwrite=True)
    assert (tmp_path / "out.parity.json").is_file()
    assert not (tmp_path / "out.verdict.json").exists()
    assert not (tmp_path / "out.served.parity.json").exists()
