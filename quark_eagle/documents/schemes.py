"""`schemes.json`, schema version 1: several ways to quantize one draft, each held against the BF16 draft.

For each: bytes, what its weights and its layers' outputs lose, what becomes of τ, and where it runs. It is measured on
prompts of the split "selection", so that those a verdict stands on stay unseen; it decides nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.documents.base import Count, Document, Sha256, read_document
from quark_eagle.documents.calibration import ObserverUsed
from quark_eagle.documents.parity import Arm, Provenance
from quark_eagle.documents.verdict import Difference

SCHEMES_SCHEMA_VERSION = 1

Energy = Annotated[float, Field(ge=0)]


def decibels(signal_energy: float, noise_energy: float | None) -> float | None:
    """Signal-to-quantization-noise ratio (SQNR): 10 log10(signal / noise).

    The term and its use for networks: Nagel et al., "A White Paper on Neural Network Quantization", arXiv 2106.08295,
    section 2. The relative error in the L2 norm is 10 ** (-SQNR / 20). None where nothing was lost, there was nothing
    to lose, or what came out is not finite.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
    (20.0, None)
    """
    return 10 * math.log10(signal_energy / noise_energy) if signal_energy and noise_energy else None


class Error(Document):
    """What quantizing did to some values, as sums of squares and the ratio made of them.

    Attributes:
        num_values: that were compared.
        signal_energy: sum of squares of what BF16 gives.
        noise_energy: sum of squares of the difference; null where what came out is not finite.
        sqnr_db: 10 log10(signal / noise), higher is better; null where the noise is 0 or not finite.
    """

    num_values: Count
    signal_energy: Energy
    noise_energy: Energy | None
    sqnr_db: float | None

    @model_validator(mode="after")
    def _ratio_is_of_the_sums(self) -> Error:
        made = decibels(self.signal_energy, self.noise_energy)
        same = made == self.sqnr_db if made is None or self.sqnr_db is None else abs(made - self.sqnr_db) < 1e-6
        if not same:
            raise ValueError(f"sqnr_db is {self.sqnr_db}, but its sums of squares make {made}")
        return self

    @property
    def rank(self) -> float:
        """By which the worst is found: the SQNR; the lowest of all where something is not finite."""
        if self.noise_energy is None:
            return -math.inf
        return math.inf if self.sqnr_db is None else self.sqnr_db


class ModuleErrors(Document):
    """What one linear layer loses.

    Attributes:
        module: its canonical name.
        weight: the weight that an engine computes with, scale included, against the BF16 one.
        output_first_step: outputs for the BF16 draft's own activations, fed to both, at step 1: every row of the text,
            as an engine computes them, also where nobody reads them (of the last layer those of the prompt, but for
            keys and values). Null where the layer was not run: the trace is projected, and this is fc.
        output_later_steps: the same at steps 2 … k, from every place of the answer, whether a walk comes to stand there
            or not; null at k = 1 as well.
    """

    module: str
    weight: Error
    output_first_step: Error | None
    output_later_steps: Error | None

    @property
    def rank(self) -> float:
        """Of its worst output."""
        outputs = (self.output_first_step, self.output_later_steps)
        return min((error.rank for error in outputs if error is not None), default=self.weight.rank)


class EngineRuns(Document):
    """Whether an engine runs a scheme on a kind of device.

    Attributes:
        how: by what product, or why not.
        seen: whether it was tried; else it was read in the engine's source.
    """

    engine: str
    device: str
    runs: bool
    how: str
    seen: bool


class SchemeResult(Document):
    """One way to quantize the draft.

    Attributes:
        name: of this way: the scheme's and, where activations were calibrated, the observer's.
        observer: what made scales of activations; null where they are made at run time.
        arm: the quantized draft: hashes, bytes of a step, prompts that it was calibrated on.
        file_bytes: of its safetensors files.
        verification: what the static rules of vLLM say of it.
        findings: errors and warnings of those rules.
        engines: where the scheme runs, and where it does not.
        computed: what of its FP8 was emulated in the replay.
        difference: change of walk τ against BF16, with its interval; null where nothing could be compared.
        modules: of the layers that were quantized.
    """

    name: str
    scheme: str
    observer: ObserverUsed | None
    arm: Arm
    file_bytes: Count
    verification: Literal["ok", "broken"]
    findings: list[str]
    engines: list[EngineRuns]
    computed: Fp8Arithmetic
    difference: Difference | None
    modules: list[ModuleErrors]

    @property
    def needs_calibration(self) -> bool:
        """Whether somebody has to record and calibrate before it can be made."""
        return self.observer is not None

    @property
    def is_usable(self) -> bool:
        """Whether an engine would load it as it was meant."""
        return self.verification == "ok"

    @property
    def worst(self) -> list[ModuleErrors]:
        """Its modules, the one that loses most at its outputs first."""
        return sorted(self.modules, key=lambda module: module.rank)


class SchemesReport(Document):
    """`schemes.json`: what was compared, on what, and what came of it.

    Attributes:
        draft: as it was named; what `baseline` is of.
        keep: patterns of what every scheme left as it was.
        quantize_fc: whether every scheme quantized fc too.
        baseline_file_bytes: of its safetensors files.
        calibration: the trace that activations were calibrated on; null where no scheme needed one.
        provenance: of the replay over the selection prompts.
        suggested: name of the simplest way that these prompts do not tell apart from the best; null if none verifies.
        schemes: in the order in which they were asked for.
    """

    schema_version: Literal[1]
    draft: str
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    kv_cache_dtype: Literal["auto", "fp8"]
    keep: list[str] = Field(default_factory=list)
    quantize_fc: bool = False
    split: Literal["selection"]
    calibration: str | None
    calibration_trace_sha256: Sha256 | None
    baseline: Arm
    baseline_file_bytes: Count
    provenance: Provenance
    suggested: str | None
    schemes: list[SchemeResult]

    @model_validator(mode="after")
    def _holds_together(self) -> SchemesReport:
        names = [result.name for result in self.schemes]
        if len(set(names)) != len(names):
            raise ValueError("two ways have one name")
        if self.suggested is not None and self.suggested not in names:
            raise ValueError(f"{self.suggested} is suggested, but was not compared")
        return self

    @classmethod
    def read(cls, path: Path) -> SchemesReport:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document, or contradicts itself.
        """
        what = f"schemes.json of schema version {SCHEMES_SCHEMA_VERSION}"
        return read_document(cls, path, what, "quark-eagle compare-schemes", has_prose=True)
