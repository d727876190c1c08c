"""How a verification is shown: every module by the rules, or every parameter as the engine has it, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.deploy.findings import Finding, RuntimeModule
    from quark_eagle.deploy.live_load import LiveParameter
    from quark_eagle.deploy.live_report import LiveReport
    from quark_eagle.deploy.verify import VerifyReport

_OTHER_PATHS_NEEDED = "quark-eagle parity {source} {directory} --trace TRACE"
_HASH_SHOWN = 12


def show(report: VerifyReport | LiveReport) -> None:
    """The whole report on stdout."""
    from quark_eagle.deploy.live_report import LiveReport

    if isinstance(report, LiveReport):
        _show_live(report)
        foretold, engine = report.foretold, f"vLLM {report.live.vllm}"
        done = (
            f"OK: {len(report.live.parameters) - len(report.unused)} parameters in {engine} hold what the file holds."
        )
    else:
        _show_foretold(report)
        foretold, engine = report, report.engine
        done = f"OK: {len(report.modules)} modules, {report.num_quantized} of them in FP8, load as they were meant."
    for finding in report.findings:
        render.say(f"{finding.severity.upper()} {finding.subject}: {finding.message}")
    if report.findings:
        render.say()
    unasked = report.left_open if isinstance(report, LiveReport) else ()
    render.say(_verdict(report.findings, done, engine, foretold, unasked))


def _compared(report: VerifyReport) -> str:
    return f", compared with {report.source}" if report.source else ""


def _show_foretold(report: VerifyReport) -> None:
    architecture = report.architecture or "no architecture"
    render.say(f"{report.directory} by the rules of {report.engine} ({architecture}){_compared(report)}\n")
    if not report.modules:
        return
    columns = ["runtime module", "built as", "weight", "scale", "filled from", "status"]
    render.show(render.table(columns, [_row(module) for module in report.modules]))
    if any("<N>" in module.lookup for module in report.modules):
        layers = "Layer i of the draft is looked up in quantization_config as layer N + i; N is the target's layers."
        render.say(f"{layers}\n")


def _row(module: RuntimeModule) -> tuple[str, ...]:
    dtype = f"FP8 {module.scheme}" if module.scheme else module.dtype
    parts = [part.rpartition(".")[2] for part in module.parts]
    return (
        module.name,
        dtype,
        "×".join(map(str, module.shape)),
        "×".join(map(str, module.scale_shape)) if module.scale_shape is not None else "",
        " + ".join(parts) or (module.sources[0] if module.sources else module.decided_by),
        module.status,
    )


def _show_live(report: LiveReport) -> None:
    live, target = report.live, report.target
    beside = f"{target} itself" if report.real_target else f"a stand-in for {target or 'its target'}"
    layers = f" ({live.num_target_layers} layers)" if live.num_target_layers else ""
    compared = _compared(report.foretold)
    render.say(f"{report.foretold.directory} in vLLM {live.vllm} on {live.arch}, beside {beside}{layers}{compared}\n")
    if live.parameters:
        columns = ["parameter", "dtype", "shape", "scale", "sha256", "filled from", "status"]
        subjects = {finding.subject for finding in report.errors}
        render.show(render.table(columns, [_live_row(report, each, subjects) for each in live.parameters.values()]))
        render.say("Taken when loading ended, before vLLM processes weights for a device's kernels.\n")


def _live_row(report: LiveReport, parameter: LiveParameter, subjects: set[str]) -> tuple[str, ...]:
    sources = report.sources(parameter.name)
    wrong = not subjects.isdisjoint({parameter.name, *sources})
    scale = "" if parameter.smallest is None else f"{parameter.smallest:.3g}…{parameter.largest:.3g}"
    if parameter.unwritten and not sources:
        from_ = "not used" if parameter.name in report.unused else "" if wrong else "shared with the target"
    else:
        from_ = " + ".join(_module_of(name) for name in sources)
    return (
        parameter.name,
        parameter.dtype,
        "×".join(map(str, parameter.shape)),
        scale,
        "" if parameter.unwritten else parameter.sha256[:_HASH_SHOWN],
        from_,
        "error" if wrong else "ok",
    )


def _module_of(tensor: str) -> str:
    """The last name of its module: ``q_proj`` of a weight or scale of it; ``d2t`` is its own."""
    return tensor.rpartition(".")[0].rpartition(".")[2] or tensor


def _verdict(
    findings: tuple[Finding, ...], done: str, engine: str, foretold: VerifyReport, left_open: tuple[str, ...]
) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        return f"BROKEN: {errors} error{'s' if errors != 1 else ''}. Do not serve it with {engine}."
    warned = f" {len(findings)} warning{'s' if len(findings) != 1 else ''}." if findings else ""
    if left_open:
        done = "\n".join((f"INCONCLUSIVE: {done.removeprefix('OK: ')}", *left_open))
    if foretold.source:
        follow = _OTHER_PATHS_NEEDED.format(source=foretold.source, directory=foretold.directory)
        return f"{done}{warned}\nNext, measure what acceptance it keeps: {follow}"
    compare = f"quark-eagle verify {foretold.directory} --source DRAFT"
    return f"{done}{warned}\nNext, compare it with its BF16 draft: {compare}"
