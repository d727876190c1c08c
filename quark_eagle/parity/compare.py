"""Comparison: a baseline and a candidate draft over one trace, prompt by prompt, as a `ParityReport`.

The baseline is replayed beside the candidate, or its counts come from a file that was stored when it was.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.documents.baseline import BaselinePrompt, BaselineReport
from quark_eagle.documents.counts import PromptAcceptance, PromptResult
from quark_eagle.documents.parity import DraftSampleMethod, ParityReport, StoredBaseline
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.kv_cache import KvCacheDtype
from quark_eagle.parity.estimate import Estimate
from quark_eagle.parity.measurement import (
    DtypeName,
    Measurement,
    Settings,
    combined_once,
    provenance,
)
from quark_eagle.parity.replay import DEAD, PromptReplay
from quark_eagle.parity.side import Side
from quark_eagle.parity.stored import require_current, require_made_from
from quark_eagle.parity.summary import summarize
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.target_trace import TargetTrace, TracedPrompt

__all__ = ["Comparison", "DtypeName", "combined_once"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two drafts and a trace that fit each other, loaded and ready to be replayed.

    Attributes:
        measurement: of both drafts, or of the candidate alone beside a stored baseline.
        stored: the baseline's counts; None where it is replayed.
        stored_from: where they come from.
    """

    measurement: Measurement
    stored: BaselineReport | None = None
    stored_from: StoredBaseline | None = None

    @classmethod
    def open(
        cls,
        baseline: Path,
        candidate: Path,
        trace: Path,
        *,
        num_speculative_tokens: int = 3,
        dtype: DtypeName = "auto",
        walk_only: bool = False,
        draft_sample_method: DraftSampleMethod = "greedy",
        device: str = "cpu",
        kv_cache_dtype: KvCacheDtype = "auto",
        miscast: Collection[str] = (),
        misread: Collection[str] = (),
        candidate_name: str | None = None,
    ) -> Comparison:
        """Open, check and load.

        Args:
            baseline: directory of the BF16 draft, or the file in which its counts are stored.
            candidate: directory of the draft under comparison: FP8, or BF16 to compare a draft with itself.
            trace: directory of the trace.
            num_speculative_tokens: k.
            dtype: of activations; auto is bfloat16, as engines run.
            walk_only: see `Settings`.
            draft_sample_method: see `Settings`.
            device: see `Settings`.
            kv_cache_dtype: see `Settings`.
            miscast: canonical modules of the candidate that the engine casts into FP8 although they were kept.
            misread: what of the candidate the engine would not run as it is meant: no verdict passes it.
            candidate_name: in the report, if its directory's name says nothing.

        Raises:
            CheckpointError: a draft cannot be used, or the baseline is quantized.
            TraceError: the trace cannot be used, or does not fit a draft.
            UsageError: probabilistic proposals on a greedy path, or a device that is not here.
            QuarkEagleError: the stored baseline is none, or stale, or foreign.
        """
        settings = Settings(
            num_speculative_tokens=num_speculative_tokens,
            dtype=dtype,
            walk_only=walk_only,
            draft_sample_method=draft_sample_method,
            device=device,
            kv_cache_dtype=kv_cache_dtype,
        )
        stored = BaselineReport.read(baseline) if baseline.is_file() else None
        opened = TargetTrace.open(trace)
        sides = [("candidate", Side.open(candidate, miscast, candidate_name, misread))]
        if stored is None:
            return cls(measurement=Measurement.open([("baseline", Side.open(baseline)), *sides], opened, settings))
        # Looked at before the draft is loaded: a stale file is told within a second.
        here = provenance(opened, settings)
        stored_from = require_current(stored, here, num_speculative_tokens, opened.prompts, baseline)
        require_made_from(stored, candidate, baseline)
        return cls(measurement=Measurement.open(sides, opened, settings), stored=stored, stored_from=stored_from)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The drafts that are replayed, as their files are: the candidate last."""
        return self.measurement.sides

    @property
    def drafts(self) -> tuple[Eagle3Draft, Eagle3Draft]:
        """Both drafts, loaded; beside a stored baseline there are not two."""
        assert self.stored is None
        baseline, candidate = self.measurement.drafts
        return baseline, candidate

    @property
    def num_speculative_tokens(self) -> int:
        """As in the settings: k of the histograms."""
        return self.measurement.settings.num_speculative_tokens

    @property
    def trace(self) -> TargetTrace:
        """The path that they are replayed over."""
        return self.measurement.trace

    def estimate(self) -> Estimate:
        """What `run` will take."""
        return Estimate.of(self.measurement)

    def run(self, *, command_line: Sequence[str] = (), progress: Progress = SILENT) -> ParityReport:
        """Replay every prompt of the trace."""
        started = time.perf_counter()
        k = self.num_speculative_tokens
        counted = {prompt.id: self._as_counted_here(prompt.baseline) for prompt in self._stored_prompts}
        results = []
        for traced, replays in self.measurement.replays(progress):
            candidate = self.measurement.acceptance(replays[-1])
            baseline = counted[traced.info.id] if self.stored is not None else self.measurement.acceptance(replays[0])
            results.append(prompt_result(traced, baseline, candidate, proposals_in_common(replays, k)))
        return ParityReport(
            schema_version=1,
            num_speculative_tokens=k,
            baseline=self.stored.baseline if self.stored is not None else self.sides[0].arm(),
            candidate=self.sides[-1].arm(),
            provenance=provenance(
                self.trace,
                self.measurement.settings,
                command_line,
                seconds=time.perf_counter() - started,
                stored_baseline=self.stored_from,
                candidate=self.measurement.drafts[-1],
            ),
            summary=summarize(results, k),
            prompts=results,
        )

    @property
    def _stored_prompts(self) -> Sequence[BaselinePrompt]:
        return self.stored.prompts if self.stored is not None else ()

    def _as_counted_here(self, stored: PromptAcceptance) -> PromptAcceptance:
        """The stored counts that this measurement has of the candidate as well."""
        if not self.measurement.settings.walk_only:
            return stored
        return stored.model_copy(update={"every_start": None, "walk_num_drafts": None})


def proposals_in_common(replays: Sequence[PromptReplay], num_speculative_tokens: int) -> tuple[int, int] | None:
    """(places where both drafts proposed, those where it was the same token); None if they cannot be laid side by side.

    That needs two drafts, and proposals that are certain.
    """
    proposals = [replayed.proposals for replayed in replays if replayed.proposals is not None]
    if len(proposals) != 2:
        return None
    first, second = (rows[:, :num_speculative_tokens] for rows in proposals)
    compared = (first != DEAD) & (second != DEAD)
    return int(compared.sum()), int((compared & (first == second)).sum())


def prompt_result(
    traced: TracedPrompt, baseline: PromptAcceptance, candidate: PromptAcceptance, in_common: tuple[int, int] | None
) -> PromptResult:
    """One prompt and what both drafts did on it."""
    return PromptResult(
        id=traced.info.id,
        sha256=traced.info.sha256,
        category=traced.info.category,
        split=traced.info.split,
        num_generated_tokens=traced.info.num_generated,
        num_proposals_compared=None if in_common is None else in_common[0],
        num_proposals_shared=None if in_common is None else in_common[1],
        baseline=baseline,
        candidate=candidate,
    )
