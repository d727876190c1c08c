"""Recipe: a target, a draft and a GPU → the exact environment and command of vLLM, with the reason of every part.

    quark-eagle recipe amd/Kimi-K2.5-MXFP4 amd/Kimi-K2.5-Eagle3-FP8 --gpu mi355x

What is started is a `ServeCommand`, so what is printed here is what a served comparison runs.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from quark_eagle.errors import UsageError
from quark_eagle.serving.command import Option, ServeCommand
from quark_eagle.serving.machine import GPU_ARCHES
from quark_eagle.serving.ports import LOOPBACK
from quark_eagle.serving.recipe_model import ServedModel
from quark_eagle.serving.recipe_rows import KIMI_FP8, PUBLISHED_K, PUBLISHED_TP, ROWS, SERVED_WITH, Platform, Row

SCHEMA_VERSION = 1
GPUS = (*GPU_ARCHES, "cpu")
DEFAULT_GPU = "mi355x"
PORT = 8000
_SPARE_TOKENS = 256  # of the context, beside prompt and answer: the chat template, and k proposed tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be served, on what.

    Attributes:
        draft: None serves the target alone.
        gpu: a key of `GPU_ARCHES`, or "cpu".
        tensor_parallel_size: None is the published number.
        num_speculative_tokens: None is the published k.
        compare: whether two drafts of this target are to be compared, so that both get one k.
        isl, osl: tokens of a prompt and of an answer.
        vllm: (major, minor) of the engine.
        trust_remote_code: whether Python of the target may run in the engine.
    """

    target: ServedModel
    draft: ServedModel | None = None
    gpu: str = DEFAULT_GPU
    tensor_parallel_size: int | None = None
    num_speculative_tokens: int | None = None
    compare: bool = False
    isl: int = 1024
    osl: int = 1024
    vllm: tuple[int, int] = SERVED_WITH
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what no recipe can serve.

        Raises:
            UsageError: a GPU that is none of `GPUS`, or sequences longer than the target takes.
        """
        if self.gpu not in GPUS:
            raise UsageError(f"--gpu {self.gpu}: must be one of {', '.join(GPUS)}.")
        most = self.target.max_positions
        if most is not None and self.isl + self.osl > most:
            raise UsageError(
                f"--isl {self.isl} and --osl {self.osl}: together over the {most} positions of {self.target.name}. "
                "Shorten one of them."
            )

    @property
    def platform(self) -> Platform:
        """What vLLM is built for there."""
        arch = GPU_ARCHES.get(self.gpu)
        return "cpu" if arch is None else "rocm" if arch.startswith("gfx") else "cuda"

    @property
    def tp(self) -> int:
        """GPUs that the target is split over."""
        return self.tensor_parallel_size or (1 if self.platform == "cpu" else PUBLISHED_TP[self.target.family])

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest sequence that is served."""
        return min(self.isl + self.osl + _SPARE_TOKENS, self.target.max_positions or sys.maxsize)

    def takes(self, row: Row) -> bool:
        """Whether a row holds for this job."""
        draft_is_mla = self.draft is not None and bool(self.draft.is_mla)
        return (
            (not row.families or self.target.family in row.families)
            and (not row.platforms or self.platform in row.platforms)
            and (not row.arches or GPU_ARCHES.get(self.gpu) in row.arches)
            and self.vllm >= row.since
            and self.vllm not in row.absent
            and (row.tp_below is None or self.tp < row.tp_below)
            and self.isl >= row.isl_from
            and (not row.with_draft or self.draft is not None)
            and (not row.remote_code or self.trust_remote_code)
            and (row.mla_draft is None or row.mla_draft == draft_is_mla)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A row as it holds for a job: its value filled in."""

    kind: str
    name: str
    value: Option
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to serve a job.

    Attributes:
        parts: every flag, field and variable, with its reason and source; k among them.
        notes: what nobody published, what this vLLM lacks, what to check by hand.
    """

    job: Job
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def command(self) -> ServeCommand:
        """What is started."""
        job = self.job
        settings = self._of("setting")
        return ServeCommand(
            target=job.target.name,
            draft=None if job.draft is None else job.draft.name,
            num_speculative_tokens=None if job.draft is None else num_speculative_tokens(job)[0],
            speculative={name: it for name, it in self._of("speculative").items() if name != "num_speculative_tokens"},
            prefix_caching=bool(settings["prefix_caching"]),
            per_request_metrics=bool(settings.get("per_request_metrics", False)),
            trust_remote_code=bool(settings.get("trust_remote_code", False)),
            options=self._of("flag"),
            environment={name: str(value) for name, value in self._of("variable").items()},
        )

    def shell(self, port: int = PORT) -> str:
        """A script that can be pasted into a shell: reasons as comments, then the environment, then the command."""
        command = self.command
        said = [*self.notes, *(f"{part.name}: {part.reason} ({part.source})" for part in self.parts)]
        lines = [f"# {' '.join(text.split())}" for text in said]  # a name with a newline must not end the comment
        lines += [f"export {name}={shlex.quote(value)}" for name, value in command.environment.items()]
        flags = command.flags()[2:]  # without --model TARGET, which `vllm serve` takes by its place
        written = [f"vllm serve {shlex.quote(command.target)}", *_flag_lines(flags), f"--host {LOOPBACK} --port {port}"]
        return "\n".join(lines) + "\n" + " \\\n    ".join(written) + "\n"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        job = self.job
        return {
            "schema_version": SCHEMA_VERSION,
            "target": job.target.name,
            "draft": None if job.draft is None else job.draft.name,
            "family": job.target.family,
            "gpu": job.gpu,
            "arch": GPU_ARCHES.get(job.gpu),
            "vllm": ".".join(map(str, job.vllm)),
            "tensor_parallel_size": job.tp,
            "num_speculative_tokens": self.command.num_speculative_tokens,
            "environment": dict(self.command.environment),
            "argv": ["vllm", "serve", job.target.name, *self.command.flags()[2:], "--host", LOOPBACK],
            "speculative_config": self.command.speculative_config,
            "parts": [
                {"kind": it.kind, "name": it.name, "value": it.value, "reason": it.reason, "source": it.source}
                for it in self.parts
            ],
            "notes": list(self.notes),
        }

    def _of(self, kind: str) -> dict[str, Option]:
        return {part.name: part.value for part in self.parts if part.kind == kind}


def recipe(job: Job) -> Recipe:
    """The recipe of a job."""
    parts = [_part(row, job) for row in ROWS if job.takes(row)]
    if job.draft is not None:
        k, reason, source = num_speculative_tokens(job)
        parts.append(Part(kind="speculative", name="num_speculative_tokens", value=k, reason=reason, source=source))
    return Recipe(job=job, parts=tuple(parts), notes=tuple(_notes(job)))


def num_speculative_tokens(job: Job) -> tuple[int, str, str]:
    """k, why, and the source. Two arms of a comparison get the same: that of the FP8 draft, which is to be shipped."""
    family = job.target.family
    fp8, source = PUBLISHED_K[family, True]
    bf16, _ = PUBLISHED_K[family, False]
    if job.num_speculative_tokens is not None:
        return job.num_speculative_tokens, "k as it was given; give it to every arm", "--num-speculative-tokens"
    if job.compare:
        other = f", not the {bf16} published for the BF16 draft" if bf16 != fp8 else ""
        return fp8, f"k = {fp8} for every arm, as for the FP8 draft that is to be shipped{other}", source
    is_fp8 = job.draft is not None and _is_fp8(job.draft)
    k, source = PUBLISHED_K[family, is_fp8]
    return k, f"k as published for the {'FP8' if is_fp8 else 'BF16'} draft", source


def _is_fp8(draft: ServedModel) -> bool:
    """By its config; by its name where that is all there is."""
    return draft.quantization is not None if draft.is_on_disk else "fp8" in draft.name.lower()


def _part(row: Row, job: Job) -> Part:
    value = row.value
    if isinstance(value, str) and "{" in value:
        value = int(value.format(tp=job.tp, max_model_len=job.max_model_len))
    return Part(kind=row.kind, name=row.name, value=value, reason=row.reason, source=row.source)


def _notes(job: Job) -> Iterator[str]:
    target, draft, version = job.target, job.draft, ".".join(map(str, job.vllm))
    if not target.is_on_disk:
        yield f"{target.name} is not on this disk: taken for {target.family} by its name alone."
    if target.family == "generic":
        yield "Nobody published a recipe for this target: these are settings that a comparison needs, and no tuning."
    elif job.gpu not in ("mi355x", "mi350x"):
        yield f"Published for MI355X; on {job.gpu} nobody has."
    if target.family == "kimi-k2" and not job.trust_remote_code:
        yield "Kimi's tokenizer is Python of its own: vLLM wants --trust-remote-code for it. Read that code first."
    if target.family == "kimi-k2" and job.platform == "rocm":
        yield f"If the GPU's MEC firmware is older than 177, also: export HSA_NO_SCRATCH_RECLAIM=1 ({KIMI_FP8})."
    wanting = [row.name for row in ROWS if replace(job, vllm=SERVED_WITH).takes(row) and not job.takes(row)]
    if wanting:
        yield f"vLLM {version} lacks {', '.join(wanting)}: {'.'.join(map(str, SERVED_WITH))} has it."
    if draft is not None and not draft.is_on_disk:
        what = "FP8" if _is_fp8(draft) else "BF16"
        yield f"{draft.name} is not on this disk: taken for a draft in {what} by its name alone."


def _flag_lines(flags: list[str]) -> list[str]:
    """A flag and its value to a line, quoted for the shell."""
    lines: list[str] = []
    for word in flags:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return lines
