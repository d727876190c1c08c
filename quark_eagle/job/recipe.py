"""Recipe: what a job is, under the names that the command line uses.

Nothing has a default here that a command has one for: what a recipe leaves out is left to that command.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quark_eagle.documents.base import Document
from quark_eagle.errors import UsageError
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.scheme import Scheme

Shown = Literal["doctor", "inspect", "explain", "plan-prompts", "recipe"]
Number = Annotated[int, Field(ge=1)]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text without NUL was needed: no path and no option can hold one")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]


def _scheme(name: str) -> str:
    try:
        return Scheme.named(name).value
    except UsageError as error:
        raise ValueError(str(error).removeprefix("--scheme ")) from None


def _format(name: str) -> str:
    known = [each.value for each in Format]
    if name not in known:
        raise ValueError(f"{name} is not known; {' or '.join(known)} was needed")
    return name


class Quantize(Document):
    """[quantize]: how weights become FP8.

    Attributes:
        scheme: as `quantize --scheme`.
        format: as `quantize --format`.
        keep: patterns of what stays as it is.
        quantize_fc: fc too.
    """

    scheme: Annotated[str, AfterValidator(_scheme)] = Scheme.PTPC_FP8.value
    format: Annotated[str, AfterValidator(_format)] | None = None
    keep: tuple[Text, ...] = ()
    quantize_fc: bool = False

    @property
    def is_static(self) -> bool:
        """Whether the scheme's activations have to be calibrated."""
        return Scheme(self.scheme).needs_calibration


class Calibration(Document):
    """[calibration]: on what a static scheme's activations are scaled, and how.

    Attributes:
        trace: of the calibration split, if there is one already; else it is recorded.
        file: JSON Lines whose split "calibration" is recorded; by default the package's own.
        limit: prompts to record.
        max_tokens: of a recorded answer, at most.
        observer: as `quantize --observer`.
        percentile: of that observer.
        tokens: calibrated on, at most.
        kv_cache_scales: find scales of an FP8 KV cache too.
    """

    trace: Text | None = None
    file: Text | None = None
    limit: Number | None = None
    max_tokens: Number | None = None
    observer: Text | None = None
    percentile: Annotated[float, Field(gt=0, le=100)] | None = None
    tokens: Number | None = None
    kv_cache_scales: bool = False


class Prompts(Document):
    """[prompts]: what acceptance is measured on, and how it is answered.

    Attributes:
        file: JSON Lines; by default the package's own.
        split: of the file.
        limit: prompts, spread over the categories.
        max_tokens: of an answer, at most.
        temperature: 0 is greedy.
        top_p: of the distribution at that temperature.
        seed: of sampling.
    """

    file: Text | None = None
    split: Text | None = None
    limit: Number | None = None
    max_tokens: Number | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


class Recording(Document):
    """[recording]: how the target's states are made and kept.

    Attributes:
        dtype: of the target's arithmetic.
        state_dtype: of the stored states.
        project: store only what the draft's fc makes of them.
        batch_size: prompts decoded together.
        device: of the target in transformers.
        anchor: with vLLM: serve the draft along, so that replay can be held against what was served.
    """

    dtype: Literal["auto", "bfloat16", "float32"] | None = None
    state_dtype: Literal["bfloat16", "float32"] | None = None
    project: bool = False
    batch_size: Number | None = None
    device: Text | None = None
    anchor: bool = True


class Engine(Document):
    """[engine]: what runs the target. vLLM also serves both drafts in the end, and the gate judges that.

    Attributes:
        name: transformers, or vllm, for which all others are but the last.
        gpu: whose recipe is served.
        tensor_parallel_size: GPUs of the target.
        options: further flags of vLLM.
        python: an interpreter that has vLLM.
        bin: the `vllm` script of its environment instead.
        blocks: passes of each draft over all prompts.
        concurrency: requests in flight.
        devices: GPUs of both drafts, side by side.
        deterministic: one request at a time.
        one_at_a_time: never two servers at once.
        ready_seconds: how long a server may take to start.
        trust_remote_code: let Python run that the target brings along.
    """

    name: Literal["transformers", "vllm"] = "transformers"
    gpu: Text | None = None
    tensor_parallel_size: Number | None = None
    options: tuple[Text, ...] = ()
    python: Text | None = None
    bin: Text | None = None
    blocks: Number | None = None
    concurrency: Number | None = None
    devices: Text | None = None
    deterministic: bool = False
    one_at_a_time: bool = False
    ready_seconds: Annotated[float, Field(ge=1)] | None = None
    trust_remote_code: bool = False


class Gate(Document):
    """[gate]: what the draft has to reach.

    Attributes:
        margin: the loss of τ that is still parity.
        alpha: probability of a false pass; no more than 0.05, at which `quantize` decides what it publishes.
        category_margin: a wider margin that every category has to keep.
        expect_baseline: τ that the BF16 draft must have within 5 %.
        looks: planned while prompts are added.
        bias: bound of replay's error.
        require_arch: take only evidence from there.
        publish_anyway: go on, and release, in spite of a failed or inconclusive verdict; the card says so.
    """

    margin: Annotated[float, Field(ge=1e-4, lt=1)] | None = None
    alpha: Annotated[float, Field(ge=0.001, le=0.05)] | None = None
    category_margin: Annotated[float, Field(ge=1e-4, lt=1)] | None = None
    expect_baseline: Annotated[float, Field(ge=1)] | None = None
    looks: Literal[1, 2] | None = None
    bias: Annotated[float, Field(ge=0, lt=1)] | None = None
    require_arch: Text | None = None
    publish_anyway: bool = False


class Outputs(Document):
    """[outputs]: where everything goes. What is not named lies in ``directory`` under a name of its own.

    Attributes:
        directory: made if it is not there; the ledger lies in it.
        trace: of the target.
        calibration_trace: of the target, over the calibration prompts.
        fp8: the quantized draft; its counts and first verdict lie beside it.
        parity: counts of what was measured apart from quantizing: served, or of a draft that was there already.
        verdict: of the gate, as JSON.
        junit: of the gate; only if it is named.
        markdown: of the gate; only if it is named.
        plot: of `explain`; only if it is named.
        bundle: what is released.
    """

    directory: Text = "work"
    trace: Text | None = None
    calibration_trace: Text | None = None
    fp8: Text | None = None
    parity: Text | None = None
    verdict: Text | None = None
    junit: Text | None = None
    markdown: Text | None = None
    plot: Text | None = None
    bundle: Text | None = None


class Release(Document):
    """[release]: what is published of it. Without this table nothing is.

    Attributes:
        name: of the release.
        repo_id: on the Hugging Face hub.
        base_model: hub id or name of the BF16 draft.
        license: hub id of the licence.
        target_name: as people call the target.
        require_arch: where the evidence has to come from; "any" waives it, and the card says so.
        signing_key: private key that signs the bundle; a path.
        signing_password_env: name of the environment variable that holds its password.
        signing_certificate: of the key; a path.
        certificate_chain: paths from that certificate to a root.
        keyless: sign with an identity instead of a key.
        identity: who signs without a key, and is verified over the network.
        identity_provider: OpenID provider that knows them.
        public_key: the key's public half, with which the bundle is verified.
        evidence: measurements that are there already, of the draft named as ``fp8``; nothing is measured then.
        verdict: on that evidence.
        calibration: of that draft's static scales, if it does not lie beside it.
    """

    name: Text | None = None
    repo_id: Text | None = None
    base_model: Text | None = None
    license: Text | None = None
    target_name: Text | None = None
    require_arch: Text | None = None
    signing_key: Text | None = None
    signing_password_env: Text | None = None
    signing_certificate: Text | None = None
    certificate_chain: tuple[Text, ...] = ()
    keyless: bool = False
    identity: Text | None = None
    identity_provider: Text | None = None
    public_key: Text | None = None
    evidence: tuple[Text, ...] = ()
    verdict: Text | None = None
    calibration: Text | None = None


class Recipe(Document):
    """A job. Paths are relative to the recipe's file; models may be Hugging Face ids.

    Attributes:
        draft: BF16 draft.
        target: what it drafts for: recorded, and served if the engine is vLLM.
        trace: of the target, if there is one already.
        fp8: an FP8 draft that is there already; else one is made.
        num_speculative_tokens: k.
        device: where drafts are replayed.
        show: commands that write nothing, shown on the way.
    """

    draft: Text | None = None
    target: Text | None = None
    trace: Text | None = None
    fp8: Text | None = None
    num_speculative_tokens: Annotated[int, Field(ge=1, le=16)] | None = None
    device: Text | None = None
    show: tuple[Shown, ...] = ()
    quantize: Quantize = Quantize()
    calibration: Calibration = Calibration()
    prompts: Prompts = Prompts()
    recording: Recording = Recording()
    engine: Engine = Engine()
    gate: Gate = Gate()
    outputs: Outputs = Outputs()
    release: Release | None = None

    @property
    def given_evidence(self) -> bool:
        """Whether it was measured before, so that only a release is made of it."""
        return self.release is not None and bool(self.release.evidence)

    @property
    def records(self) -> bool:
        """Whether the target is recorded here."""
        return self.target is not None and self.trace is None and not self.given_evidence

    @property
    def measures(self) -> bool:
        """Whether acceptance is measured here."""
        return (self.target is not None or self.trace is not None) and not self.given_evidence

    @property
    def serves(self) -> bool:
        """Whether both drafts are served in the end."""
        return self.measures and self.engine.name == "vllm"

    @property
    def quantizes(self) -> bool:
        """Whether the FP8 draft is made here."""
        return self.fp8 is None

    @property
    def calibrates(self) -> bool:
        """Whether scales of activations are found here."""
        return self.quantizes and (self.quantize.is_static or self.calibration.kv_cache_scales)
