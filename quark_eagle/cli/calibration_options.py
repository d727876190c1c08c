"""Options of `quantize` that say how a static scheme's activations are calibrated, and what they come to together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quark_eagle.checkpoint.layout import Eagle3Layout
    from quark_eagle.checkpoint.reader import Checkpoint
    from quark_eagle.quantize.calibration.job import Calibrating, CalibrationJob
    from quark_eagle.quantize.plan import QuantPlan
    from quark_eagle.quantize.scheme import Scheme
    from quark_eagle.trace.record_options import RecordOptions

CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="TRACE",
        help="For a static scheme: trace of the calibration split (`trace --split calibration`).",
        show_default=False,
    ),
]
ObserverOption = Annotated[
    str | None,
    typer.Option(
        "--observer",
        metavar="NAME",
        help="What makes scales of activations: Quark's min_max (default), percentile, mse or histogram.",
        show_default=False,
    ),
]
PercentileOption = Annotated[
    float | None,
    typer.Option(metavar="P", help="Of --observer percentile. Default: Quark's 99.99999999.", show_default=False),
]
CalibTokensOption = Annotated[
    int | None,
    typer.Option(
        "--calib-tokens",
        min=1,
        metavar="N",
        help="Calibrate on at most N tokens, categories in turn. Default: all.",
        show_default=False,
    ),
]
KvCacheScalesFlag = Annotated[
    bool, typer.Option("--kv-cache-scales", help="Calibrate scales for an FP8 KV cache of the draft too.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationArguments:
    """The options as they were given."""

    trace: Path | None
    observer: str | None
    percentile: float | None
    max_tokens: int | None
    kv_cache_scales: bool

    def job(
        self,
        scheme: Scheme,
        target: str | None,
        record_options: RecordOptions | None,
        limit: int | None,
        num_speculative_tokens: int | None,
        device: str,
    ) -> CalibrationJob | None:
        """What has to be calibrated; None if the scheme needs nothing and no scales of the KV cache are wanted.

        Raises:
            UsageError: a static scheme with nothing to calibrate on, or options that mean nothing to the scheme.
        """
        from quark_eagle.errors import UsageError
        from quark_eagle.quantize.calibration.job import CalibrationJob
        from quark_eagle.quantize.calibration.observer import Observer, ObserverChoice
        from quark_eagle.quantize.calibration.run import CalibrationOptions

        if not (scheme.needs_calibration or self.kv_cache_scales):
            if self._given:
                raise UsageError(
                    f"{', '.join(self._given)}: --scheme {scheme.value} scales activations as they come, so there is "
                    "nothing to calibrate. Leave it out, or choose a static scheme, or add --kv-cache-scales."
                )
            return None
        if self.trace is None and target is None:
            what = "--kv-cache-scales" if not scheme.needs_calibration else f"--scheme {scheme.value}"
            raise UsageError(
                f"{what}: writes scales of activations into the draft, and there is nothing to observe them on. "
                "Record a trace with `quark-eagle trace TARGET --draft DRAFT --split calibration --output TRACE` and "
                "give it with --calibration TRACE; or give --target TARGET, which records and judges as well; or take "
                "--scheme ptpc_fp8, which needs no calibration."
            )
        choice = ObserverChoice(
            observer=Observer.MIN_MAX if self.observer is None else Observer.named(self.observer),
            percentile=self.percentile,
        )
        return CalibrationJob(
            trace=self.trace,
            target=None if self.trace is not None else target,
            record_options=None if record_options is None else _without_draft(record_options),
            limit=limit,
            options=CalibrationOptions(
                choice=choice,
                max_tokens=self.max_tokens,
                kv_cache_scales=self.kv_cache_scales,
                num_speculative_tokens=num_speculative_tokens,
                device=device,
            ),
        )

    @property
    def _given(self) -> list[str]:
        options = {
            "--calibration": self.trace,
            "--observer": self.observer,
            "--percentile": self.percentile,
            "--calib-tokens": self.max_tokens,
        }
        return [option for option, value in options.items() if value is not None]


def _without_draft(options: RecordOptions) -> RecordOptions:
    """The same recording with no draft served along: scales are observed, and nothing is held against a server."""
    assert options.vllm is not None
    return replace(options, vllm=replace(options.vllm, serves_draft=False, num_speculative_tokens=None))


def calibrating(
    job: CalibrationJob | None,
    checkpoint: Checkpoint,
    layout: Eagle3Layout,
    plan: QuantPlan,
    output: Path,
    *,
    overwrite: bool,
    quiet: bool,
    command_line: Sequence[str],
) -> Calibrating | None:
    """A job as this command line runs it: with bars and announcements, unless `quiet`; None if there is none."""
    from quark_eagle.cli import render
    from quark_eagle.cli.calibration_output import announce
    from quark_eagle.cli.trace_output import announce as announce_recording
    from quark_eagle.quantize.calibration.job import Calibrating

    if job is None:
        return None
    return Calibrating(
        checkpoint=checkpoint,
        layout=layout,
        plan=plan,
        output=output,
        job=job,
        overwrite=overwrite,
        progress=render.progress(quiet=quiet),
        announce=(lambda estimate: None) if quiet else announce,
        announce_recording=(lambda estimate: None) if quiet else announce_recording,
        command_line=command_line,
    )
