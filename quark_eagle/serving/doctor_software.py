"""What is installed, and whether its parts belong together: lines of a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quark_eagle.serving.doctor_kernels import fp8_line
from quark_eagle.serving.doctor_line import Line, error, ok, warning
from quark_eagle.serving.machine import GPU_ARCHES, Machine

OLDEST_VLLM_READ, NEWEST_VLLM_READ = (0, 19), (0, 32)
OLDEST_ROCM_OF_GFX950 = (7, 0)
PER_REQUEST_METRICS = (0, 29)  # vllm/config/observability.py: per_request_spec_decode_metrics
_IMAGE = "the image of examples/rocm/Containerfile"


def gpu_lines(machine: Machine, wanted: str | None) -> Iterator[Line]:
    """Driver, GPUs and their FP8.

    Args:
        machine: that was read.
        wanted: the GPU that the job is for, a key of `GPU_ARCHES`; None if nobody said.
    """
    if machine.kfd_is_open is False:
        yield error(
            "driver",
            "/dev/kfd is there, and this user may not open it",
            "Join the groups video and render, or start the container with --device /dev/kfd --device /dev/dri "
            "--group-add video --group-add render.",
        )
    if machine.torch_error is not None:
        yield error("torch", f"cannot be used: {machine.torch_error}", f"Reinstall it, or use {_IMAGE}.")
    if not machine.gpus:
        yield _no_gpu(machine, wanted)
        return
    names = sorted({f"{gpu.name} ({gpu.arch})" for gpu in machine.gpus})
    told = f"{len(machine.gpus)} × {', '.join(names)}"
    if wanted is not None and machine.arch != GPU_ARCHES[wanted]:
        yield error(
            "GPU", f"{told}, but {wanted} is {GPU_ARCHES[wanted]}", f"Run it on {wanted}, or leave --gpu {wanted} out."
        )
    elif len({gpu.arch for gpu in machine.gpus}) > 1:
        yield warning("GPU", f"{told}: not all alike", "Show one kind only (HIP_VISIBLE_DEVICES).")
    else:
        yield ok("GPU", told)
    yield fp8_line(machine.gpus[0].arch)


def _no_gpu(machine: Machine, wanted: str | None) -> Line:
    """Why torch sees none: the driver does, or there is none."""
    arches = ", ".join(sorted(set(machine.driver_arches))) or ("NVIDIA" if machine.nvidia_driver else "")
    if arches:
        build = f"torch {machine.torch}" if machine.torch else "torch, which is not there,"
        return error(
            "GPU",
            f"the driver lists {len(machine.driver_arches) or 'some'} ({arches}), but {build} sees none",
            "Another torch may have replaced the image's: install beside it, not over it (tools/install.sh), or name "
            "the image's Python with --vllm-python. Check HIP_VISIBLE_DEVICES too.",
        )
    if wanted is not None:
        return error("GPU", f"none, but {wanted} was asked for", f"Run it on a machine with {wanted}.")
    return warning(
        "GPU",
        "none: inspect, quantize, verify, replay and gate work; a served speed means nothing here",
        "Serve and time on MI355X; verdicts for it need --require-arch gfx950.",
    )


def software_lines(machine: Machine, own: Mapping[str, str]) -> Iterator[Line]:
    """ROCm, torch, vLLM and AITER of the engine's Python; Quark and transformers of ours.

    Args:
        machine: with the engine's Python.
        own: versions in the Python that runs quark-eagle: quark, transformers.
    """
    is_amd = machine.hip is not None or bool(machine.driver_arches)
    if is_amd:
        yield _rocm_line(machine)
    if machine.torch is not None:
        build = f"hip {machine.hip}" if machine.hip else f"cuda {machine.cuda}" if machine.cuda else "cpu"
        yield ok("torch", f"{machine.torch}, built for {build}")
    elif machine.torch_error is None:
        yield error("torch", f"not in {machine.executable}", "Name the Python that has it with --vllm-python.")
    yield _vllm_line(machine)
    if is_amd:
        yield _aiter_line(machine)
    for name, what, extra in (("quark", "quantize", "quantize"), ("transformers", "trace", "trace")):
        if name in own:
            yield ok(name, f"{own[name]}")
        else:
            yield warning(name, f"not here: `{what}` needs it", f"pip install 'quark-eagle[{extra}]'")


def _rocm_line(machine: Machine) -> Line:
    if machine.rocm is None:
        return warning("ROCm", "no version to be found", "Set ROCM_PATH to where it lies, if it is not /opt/rocm.")
    numbers = tuple(int(part) for part in machine.rocm.split("-")[0].split(".")[:2] if part.isdigit())
    arches = {*machine.driver_arches, machine.arch}
    if "gfx950" in arches and numbers < OLDEST_ROCM_OF_GFX950:
        return error("ROCm", f"{machine.rocm}, but gfx950 needs 7.0", f"Use {_IMAGE}.")
    return ok("ROCm", machine.rocm)


def _vllm_line(machine: Machine) -> Line:
    found, version = machine.packages.get("vllm"), machine.vllm
    if found is None:
        return warning(
            "vLLM",
            f"not in {machine.executable}: nothing can be served or loaded live",
            f"Name the Python that has it with --vllm-python, or use {_IMAGE}.",
        )
    if version is None or not OLDEST_VLLM_READ <= version <= NEWEST_VLLM_READ:
        low, high = (".".join(map(str, it)) for it in (OLDEST_VLLM_READ, NEWEST_VLLM_READ))
        return warning(
            "vLLM",
            f"{found}: its sources were not read, those of {low} to {high} were",
            "Trust `verify --engine vllm`, which asks the engine itself, and not the static rules.",
        )
    if version < PER_REQUEST_METRICS:
        return warning(
            "vLLM",
            f"{found}: an answer does not tell what its rounds accepted, so served counts come from streaming",
            "Take 0.29 or later.",
        )
    return ok("vLLM", found)


def _aiter_line(machine: Machine) -> Line:
    if "aiter" not in machine.packages:
        return warning(
            "AITER",
            "not there: vLLM takes Triton kernels, which are slower",
            f"Use {_IMAGE}; a served speed without AITER says nothing about the published one.",
        )
    if machine.environment.get("VLLM_ROCM_USE_AITER", "0").lower() not in ("1", "true"):
        return ok("AITER", f"{machine.packages['aiter']}; off until VLLM_ROCM_USE_AITER=1, which recipes set")
    return ok("AITER", f"{machine.packages['aiter']}, on")
