"""Finding and RuntimeModule: what a verification says about the checkpoint, and about each module of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

FP8 = "F8_E4M3"
HIGH_PRECISION = ("BF16", "F16", "F32")
MODEL_DTYPE = "BF16"
"""How a report writes the dtype of everything that is not quantized: the target's, which is BF16 in production."""


Basis = Literal["rules", "content", "engine"]
"""Who says so: the engine's loading rules, the bytes of the checkpoint, or the engine itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that the reader should know.

    Attributes:
        severity: an error makes the checkpoint broken; a warning does not.
        subject: runtime module, tensor on disk, or ``config.json``.
        message: what was found, what follows, what to do.
        stops: whether the engine refuses the draft because of it; otherwise it serves, and says nothing.
        basis: who says so.
    """

    severity: Literal["error", "warning"]
    subject: str
    message: str
    stops: bool = False
    basis: Basis = "rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a module or a config, before it is known what it is reported under.

    Attributes:
        message: what was found, what follows, what to do.
        stops: whether the engine refuses the draft because of it.
    """

    message: str
    stops: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter as the engine will build and fill it.

    Attributes:
        name: its runtime name.
        dtype: in safetensors' spelling; `MODEL_DTYPE` for that of the model.
        shape: before the rows of a vocabulary are padded.
        sources: the tensor on disk for each block of its rows, in order; None where there is none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeModule:
    """One module as the engine will build and fill it.

    Attributes:
        name: of the module whose parameters are filled, counting the draft's own layers.
        lookup: the name with which ``quantization_config`` is asked; ``<N>`` is the target's number of layers.
        parts: modules on disk that are stacked into it, in order of their rows.
        dtype: that the engine builds its weight in.
        scheme: how it is quantized; None if it is not.
        decided_by: the entry of ``quantization_config`` that decided; empty where nothing was asked.
        parameters: its weight, and scales and bias if it has them.
        shape: of the weight the engine builds.
        scale_shape: of its ``weight_scale``; None if it has none.
        problems: why it will not run as it was meant; none if it will.
    """

    name: str
    lookup: str
    parts: tuple[str, ...]
    dtype: str
    scheme: str | None
    decided_by: str
    parameters: tuple[Parameter, ...]
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...] | None
    problems: tuple[Problem, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Tensors on disk that fill it, in order."""
        return tuple(name for parameter in self.parameters for name in parameter.sources if name is not None)

    @property
    def errors(self) -> tuple[str, ...]:
        """The problems in words."""
        return tuple(problem.message for problem in self.problems)

    @property
    def status(self) -> Literal["ok", "error"]:
        """Whether it will run as it was meant."""
        return "error" if self.errors else "ok"

    @property
    def reason(self) -> str:
        """Why not; what decided its dtype, if it will."""
        return " ".join(self.errors) or self.decided_by

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        fields = asdict(self)
        del fields["problems"]
        return fields | {"sources": self.sources, "errors": self.errors, "status": self.status}


def errors(subject: str, problems: Iterable[Problem | str], basis: Basis = "rules") -> list[Finding]:
    """The problems as errors about one subject."""
    return [_finding("error", subject, problem, basis) for problem in problems]


def warnings(subject: str, problems: Iterable[Problem | str], basis: Basis = "rules") -> list[Finding]:
    """The problems as warnings about one subject."""
    return [_finding("warning", subject, problem, basis) for problem in problems]


def _finding(severity: Literal["error", "warning"], subject: str, problem: Problem | str, basis: Basis) -> Finding:
    known = problem if isinstance(problem, Problem) else Problem(message=problem)
    return Finding(severity=severity, subject=subject, message=known.message, stops=known.stops, basis=basis)
