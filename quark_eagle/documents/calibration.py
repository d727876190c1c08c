"""The calibration document, schema version 1: which scales were found, on what, by which observer, and how surely.

It lies beside the quantized draft as ``OUT.calibration.json``, and the draft's ``quark_eagle.json`` names its sha256.
It holds no time: the same command writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, Sha256, read_document, sha256_of_prompts

CALIBRATION_SCHEMA_VERSION = 1
OUTLIER_RATIO = 16.0
"""Largest magnitude over the 99.99th percentile from which a module's activations are said to have outliers.

An FP8 scale that holds the outlier leaves the rest four binades lower, of the fifteen that e4m3fn has.
"""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class ObserverUsed(Document):
    """What made scales of activations.

    Attributes:
        name: as the command line calls it.
        quark_class: the class of AMD Quark that observed.
        parameters: what is set of it beside what it sees.
    """

    name: str
    quark_class: str
    parameters: dict[str, float]


class CalibratedPrompt(Document):
    """A prompt that was calibrated on.

    Attributes:
        sha256: of its messages.
        num_tokens: rows of step 1: prompt and answer, without the last token.
    """

    id: str
    category: str
    sha256: Sha256
    num_tokens: Count


class ChainTokens(Document):
    """What was fed to steps 2 … k.

    Attributes:
        own_proposals: tokens that the draft had proposed itself, as an engine feeds them.
        recorded: tokens of the recorded path in their place, where the trace lends no embedding of the proposal.
        ended: chains that ended early, as there was neither.
    """

    own_proposals: Count
    recorded: Count
    ended: Count


class StepPeak(Document):
    """The largest magnitude at one step of the draft.

    Attributes:
        step: from 1; step 1 reads the target's states, later ones the draft's own.
        prompt: its id.
        position: in the prompt's text, from 0.
        channel: of the activation; for keys and values head * head_dim + dimension.
    """

    step: Annotated[int, Field(ge=1)]
    absmax: NotNegative
    prompt: str
    position: Count
    channel: Count


class ConvergencePoint(Document):
    """The scale after some of the tokens.

    Attributes:
        num_tokens: rows of step 1 that had been seen.
    """

    num_tokens: Count
    scale: Positive


class CalibratedScale(Document):
    """The scale of one activation, and what was seen of it.

    Attributes:
        module: canonical name of the linear whose input it is, or ``layers.0.self_attn.keys`` and ``.values``.
        kind: of the activation: what enters a linear, or keys or values as they enter the cache, after RoPE.
        scale: float32; multiplies on the way back. What the observer took for the largest magnitude, over 448.
        num_values: magnitudes that were counted.
        absmax: the largest of them.
        percentile_99_99: the smallest magnitude that 99.99 % do not exceed.
        outlier_ratio: absmax over that percentile; null where the percentile is 0.
        num_clipped: values beyond 464 scales, which become 448 and would round to more.
        num_flushed: values other than 0 that become 0.
        convergence: the scale at about each eighth of the tokens.
        peaks: the largest magnitude of each step.
    """

    module: str
    kind: Literal["input", "keys", "values"]
    scale: Positive
    num_values: Count
    absmax: NotNegative
    percentile_99_99: NotNegative
    outlier_ratio: NotNegative | None
    num_clipped: Count
    num_flushed: Count
    convergence: list[ConvergencePoint]
    peaks: list[StepPeak]

    @property
    def has_outliers(self) -> bool:
        """Whether a few values decide the scale of all."""
        return self.outlier_ratio is not None and self.outlier_ratio >= OUTLIER_RATIO

    @property
    def peak(self) -> StepPeak:
        """Where the largest magnitude was."""
        return max(self.peaks, key=lambda peak: peak.absmax)

    @property
    def late_growth(self) -> float:
        """How far the scale moved over the second half of the tokens, as a fraction of what it came to."""
        total = self.convergence[-1].num_tokens
        half = [point.scale for point in self.convergence if 2 * point.num_tokens <= total] or [
            self.convergence[0].scale
        ]
        return abs(self.convergence[-1].scale / half[-1] - 1)


class Calibration(Document):
    """What a static scheme's activation scales stand on.

    Attributes:
        draft_weights_sha256: of the BF16 draft that was calibrated.
        draft_config_sha256: of its config.json.
        trace_sha256: of the trace.json of the states that it saw.
        target: the target's name in that trace.
        num_speculative_tokens: k: steps of the draft that were run.
        dtype: of the draft's activations.
        engine: what computed the draft, with its build.
        arch: of the machine.
        num_tokens_of_step: [k], rows that each step ran.
        prompts_sha256: of the prompts' ids and hashes, in order.
        scales: one for each quantized linear, and for keys and values of each layer if they were wanted.
    """

    schema_version: Literal[1]
    observer: ObserverUsed
    draft_weights_sha256: Sha256
    draft_config_sha256: Sha256
    trace_sha256: Sha256
    target: str
    split: Literal["calibration"]
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    dtype: str
    engine: str
    arch: str
    num_tokens_of_step: list[Count]
    chain_tokens: ChainTokens
    scales: list[CalibratedScale]
    outliers: list[str]
    prompts_sha256: Sha256
    prompts: list[CalibratedPrompt]
    command_line: list[str]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _holds_together(self) -> Calibration:
        problems = [
            f"{it.module}: the last point of its convergence is not its scale"
            for it in self.scales
            if not it.convergence or it.convergence[-1].scale != it.scale
        ]
        names = [it.module for it in self.scales]
        if len(set(names)) != len(names):
            problems.append("a module has two scales")
        if self.outliers != [it.module for it in self.scales if it.has_outliers]:
            problems.append("outliers are not those of the ratios")
        if len(self.num_tokens_of_step) != self.num_speculative_tokens:
            problems.append("num_tokens_of_step has another length than k")
        if self.prompts_sha256 != sha256_of_prompts((it.id, it.category, self.split, it.sha256) for it in self.prompts):
            problems.append("the prompts are not those that prompts_sha256 is of")
        if problems:
            raise ValueError("; ".join(problems[:5]))
        return self

    @property
    def num_tokens(self) -> int:
        """Rows of step 1."""
        return self.num_tokens_of_step[0]

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document, or contradicts itself.
        """
        what = f"calibration of schema version {CALIBRATION_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle quantize --calibration TRACE")
