"""Did the engine do what its rules foretold? Where not, the engine is right, and the rules need mending.

Compared are the refusal, and for every parameter its name, dtype, shape and the tensors in its rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from quark_eagle.deploy.findings import MODEL_DTYPE, Parameter
from quark_eagle.deploy.live_findings import in_rows, is_skipped, is_unused
from quark_eagle.deploy.live_load import LiveLoad, LiveParameter
from quark_eagle.deploy.plain import EMBEDDING, HEAD
from quark_eagle.deploy.rules import VOCABULARY_PADDING, EngineRules
from quark_eagle.deploy.verify import VerifyReport

VOCABULARIES = (f"{EMBEDDING}.", f"{HEAD}.")


def disagreements(report: VerifyReport, live: LiveLoad, rules: EngineRules, model_dtype: str = "BF16") -> list[str]:
    """What was foretold otherwise than it came, in sentences; none if the rules hold.

    Args:
        report: by the rules.
        live: from the engine.
        rules: that the report was made by.
        model_dtype: the target's, in safetensors' spelling.
    """
    foretold = [finding for finding in report.errors if finding.stops]
    if not report.modules and not foretold:
        return []  # config.json lacks a size: broken, but what vLLM fills in for it is not foretold
    if live.refused_while and not foretold:
        return [f"the rules foretold that it loads, and vLLM stopped while doing {live.refused_while}: {live.failure}"]
    if live.refused_while:
        return []
    if foretold:
        return [f"the rules foretold that vLLM stops, and it did not: {finding.message}" for finding in foretold]
    return [*_parameters(report, live, rules, model_dtype), *_dropped(report, live, rules)]


def _parameters(report: VerifyReport, live: LiveLoad, rules: EngineRules, model_dtype: str) -> Iterator[str]:
    foretold = {parameter.name: parameter for module in report.modules for parameter in module.parameters}
    for name in sorted(live.parameters.keys() - foretold.keys()):
        if not is_unused(name, rules):
            yield f"the rules know no parameter {name}, and vLLM built it"
    for name, parameter in foretold.items():
        built = live.parameters.get(name)
        if built is None:
            yield f"the rules foretold a parameter {name}, and vLLM built none"
        else:
            yield from _one(parameter, built, live, model_dtype)


def _one(parameter: Parameter, built: LiveParameter, live: LiveLoad, model_dtype: str) -> Iterator[str]:
    dtype = model_dtype if parameter.dtype == MODEL_DTYPE else parameter.dtype
    if dtype != built.dtype:
        yield f"the rules foretold {parameter.name} in {dtype}, and vLLM built it in {built.dtype}"
    shape = _padded(parameter)
    if shape != built.shape:
        yield f"the rules foretold {parameter.name} as {list(shape)}, and vLLM built it as {list(built.shape)}"
    expected = [name for name in parameter.sources if name is not None]
    filled = [place.tensor for place in in_rows(live, parameter.name)]
    if expected != filled:
        yield f"the rules foretold that {parameter.name} is filled from {expected}, and vLLM filled it from {filled}"
    if (None in parameter.sources) != bool(built.unwritten):
        left = "left rows of it unwritten" if built.unwritten else "wrote all of it"
        yield f"the rules foretold otherwise of {parameter.name}: vLLM {left}"


def _padded(parameter: Parameter) -> tuple[int, ...]:
    """The shape with the rows of a vocabulary rounded up, as the engine does."""
    if not parameter.name.startswith(VOCABULARIES):
        return parameter.shape
    rows = -(-parameter.shape[0] // VOCABULARY_PADDING) * VOCABULARY_PADDING
    return (rows, *parameter.shape[1:])


def _dropped(report: VerifyReport, live: LiveLoad, rules: EngineRules) -> Iterator[str]:
    used = {name for module in report.modules for name in module.sources}
    noted = {finding.subject for finding in report.findings}
    for name, places in live.placements.items():
        if not places and name in used:
            yield f"the rules foretold that {name} is used, and vLLM dropped it"
        if not places and name not in used | noted and not is_skipped(name, rules):
            yield f"the rules say nothing of {name}, and vLLM dropped it"
