"""`parity.json`, schema version 1: what two drafts got accepted, replayed on one path or served by an engine.

Every rate travels with the counts it is made of, no data is null (JSON has no NaN), keys are the glossary's names, and
provenance says everything that is needed to measure again. Per prompt and arm the acceptance histogram is kept, so
that another decision can be taken later without measuring again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from quark_eagle.documents.anchor import Anchor
from quark_eagle.documents.arithmetic import Fp8Arithmetic
from quark_eagle.documents.base import Count, Document, Sha256, read_document, sha256_of_prompts, without_absent
from quark_eagle.documents.counts import PromptResult, prompt_problems
from quark_eagle.documents.served import Served

PARITY_SCHEMA_VERSION = 1


class StepBytes(Document):
    """Weights that a draft step reads, in bytes: what a step costs at small batches.

    Attributes:
        layers: read in every step, as `head` is.
        head: of the draft or, where it has none, of the target.
        embedding: one row.
        first_step: read in the first step of a round only: `fc` and its norms.
    """

    layers: Annotated[int, Field(gt=0)]
    head: Annotated[int, Field(gt=0)]
    embedding: Count
    first_step: Count

    @property
    def every_step(self) -> int:
        """What every step reads."""
        return self.layers + self.head + self.embedding


class CalibratedOn(Document):
    """What the static scales of a draft were observed on, as its quark_eagle.json says.

    Attributes:
        document_sha256: of the calibration's document.
        prompts: sha256 of the messages of each prompt that was seen.
    """

    document_sha256: Sha256
    observer: str
    prompts: list[Sha256]


class Arm(Document):
    """One of the two drafts.

    Attributes:
        weights_sha256: of the names and hashes of its safetensors files.
        config_sha256: of its config.json.
        weight_dtype: of its decoder layer's linear weights, in safetensors' spelling.
        miscast: modules whose weight the engine casts into a dtype it was not written in; computed as the engine would.
        misread: modules or tensors that the engine would not run as they are meant, by its rules: no verdict passes
            such a draft, whatever was counted; left out where there are none.
        step_bytes: what a draft step reads of it.
        calibrated_on: "unknown" where it has static scales and no record of them; left out where its scales are made at
            run time.
    """

    name: str
    weights_sha256: Sha256
    config_sha256: Sha256
    family: str
    weight_dtype: str
    miscast: list[str]
    misread: list[str] = Field(default_factory=list)
    step_bytes: StepBytes
    calibrated_on: CalibratedOn | Literal["unknown"] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = without_absent(serialize(self), "calibrated_on")
        if not self.misread:
            del content["misread"]
        return content


DraftSampleMethod = Literal["greedy", "probabilistic"]
"""vLLM's words: the draft proposes its argmax, or a draw from its distribution at the request's temperature."""


MeasuredBy = Literal["replay", "vllm served"]


class StoredBaseline(Document):
    """Where the baseline's counts come from, if the draft itself was not replayed in this measurement.

    Attributes:
        file: that holds them.
        sha256: of the file.
        created: when it was measured.
        engine: what computed it, with its build.
        arch: of the machine that computed it.
        noted: what differs from this measurement without making the counts unfit, in words.
    """

    file: str
    sha256: Sha256
    created: str
    engine: str
    arch: str
    noted: list[str]


class Provenance(Document):
    """What was measured with what.

    Attributes:
        measured_by: how the counts came about: replayed over a recorded path, or counted by a server.
        arch: the machine's instruction set and, where it has one, the accelerator.
        engine: what computed the drafts, with its build.
        dtype: of activations.
        trace: that was replayed; null where the drafts were served.
        trace_sha256: of trace.json, which holds the hashes of the trace's shards.
        prompts_sha256: of the ids and hashes of the prompts, in order.
        target: as the trace identifies it.
        sampling: as the trace was recorded.
        recorded_with: engine, dtype and versions of the recording; empty where the drafts were served.
        seconds: spent replaying or serving.
        draft_sample_method: how the drafts propose.
        stored_baseline: where the baseline's counts come from; null where both drafts were replayed here.
        anchor: of the trace: a served run of the baseline, and replay of it; left out where the trace has none.
        candidate_fp8: how the candidate's FP8 was computed; left out where it was served, or has none.
    """

    created: str
    command_line: list[str]
    versions: dict[str, str]
    measured_by: MeasuredBy = "replay"
    arch: str
    num_threads: Count
    engine: str
    dtype: str
    walk_only: bool
    trace: str | None
    trace_sha256: Sha256 | None
    prompts_sha256: Sha256
    target: dict[str, Any]
    sampling: dict[str, Any]
    recorded_with: dict[str, Any]
    seconds: float
    draft_sample_method: DraftSampleMethod = "greedy"
    stored_baseline: StoredBaseline | None = None
    anchor: Anchor | None = None
    candidate_fp8: Fp8Arithmetic | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(without_absent(serialize(self), "anchor"), "candidate_fp8")


class Rates(Document):
    """Counts over some prompts and the rates made of them; null where nothing was counted.

    Attributes:
        mean_acceptance_length: τ = 1 + accepted / drafts, bonus token included.
        draft_acceptance_rate: accepted / proposed tokens.
        marginal_acceptance: [k] share of drafts whose tokens 0…i were all accepted.
        conditional_acceptance: [k] share whose token i was accepted, of those whose tokens before i were.
    """

    num_drafts: Count
    num_draft_tokens: Count
    num_accepted_tokens: Count
    acceptance_histogram: list[Count]
    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    marginal_acceptance: list[float] | None
    conditional_acceptance: list[float | None]


class Pair(Document):
    """The same rates of both drafts."""

    baseline: Rates
    candidate: Rates


class Population(Document):
    """Both ways of counting, over the same prompts; `every_start` is null after a walk-only measurement."""

    num_prompts: Count
    walk: Pair
    every_start: Pair | None


class TauPoint(Document):
    """τ of the walk at one k: 1 + accepted / drafts; null where there was no draft."""

    num_speculative_tokens: Count
    baseline_num_drafts: Count
    candidate_num_drafts: Count
    baseline_num_accepted_tokens: Count
    candidate_num_accepted_tokens: Count
    baseline_mean_acceptance_length: float | None
    candidate_mean_acceptance_length: float | None


class Summary(Document):
    """Everything that is printed, derived from the prompts' histograms and from nothing else."""

    overall: Population
    categories: dict[str, Population]
    tau_curve: list[TauPoint] | None
    num_proposals_compared: Count | None
    num_proposals_shared: Count | None


class ParityReport(Document):
    """`parity.json`: what was measured, from which a verdict can be reached without measuring again.

    Attributes:
        served: how an engine was asked; left out where the drafts were replayed.
    """

    schema_version: Literal[1]
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    baseline: Arm
    candidate: Arm
    provenance: Provenance
    summary: Summary
    served: Served | None = None
    prompts: list[PromptResult]

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(serialize(self), "served")

    @model_validator(mode="after")
    def _counts_fit(self) -> ParityReport:
        k = self.num_speculative_tokens
        num_blocks = self.served.num_blocks if self.served is not None else None
        problems = [problem for prompt in self.prompts for problem in prompt_problems(prompt, k, num_blocks)]
        if self.provenance.prompts_sha256 != sha256_of_prompts(
            (prompt.id, prompt.category, prompt.split, prompt.sha256) for prompt in self.prompts
        ):
            problems.append(
                "the prompts are not those that provenance.prompts_sha256 is of: some were left out or changed"
            )
        if problems:
            raise ValueError("; ".join(problems[:5]))
        return self

    @classmethod
    def read(cls, path: Path) -> ParityReport:
        """The document in a file.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is not such a document, or its counts contradict themselves.
        """
        return read_document(cls, path, f"parity.json of schema version {PARITY_SCHEMA_VERSION}", "quark-eagle parity")

    def to_json(self) -> str:
        """The file's text: one line for each prompt, so that a diff of two reports shows which prompts changed."""
        return one_line_a_prompt(self)


def one_line_a_prompt(document: Document) -> str:
    """The text of a document that has ``prompts``, each on a line of its own."""
    content = document.model_dump(mode="json")
    prompts = ",\n".join(f"  {json.dumps(prompt, ensure_ascii=False)}" for prompt in content.pop("prompts"))
    head = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    return f'{head},\n "prompts": [\n{prompts}\n ]\n}}\n'
