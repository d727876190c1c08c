"""Facts about a machine become lines with remedies: machines that we do not have, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quark_eagle.serving.doctor import Diagnosis, diagnose
from quark_eagle.serving.doctor_kernels import share_a_block
from quark_eagle.serving.doctor_line import Line
from quark_eagle.serving.doctor_room import TraceSize, gpu_bytes
from quark_eagle.serving.machine import Gpu, Machine
from quark_eagle.serving.recipe_model import ServedModel
from quark_eagle.serving.recipes import Job
from tests.serving.machines import BLOCKS_0_19, CPU_NODE, H200_NODE, MI300X_NODE, MI355X_NODE, OWN

KIMI = ServedModel(
    name="amd/Kimi-K2.5-MXFP4",
    directory=None,
    family="kimi-k2",
    model_type="kimi_k2",
    is_mla=True,
    size_bytes=550_000_000_000,
    hidden_size=7168,
    cache_bytes=61 * (512 + 64) * 2,
)
FP8_DRAFT = ServedModel(name="amd/Kimi-K2.5-Eagle3-FP8", quantization="quark", is_mla=False, size_bytes=5_681_000_000)
KIMI_JOB = Job(target=KIMI, draft=FP8_DRAFT, tensor_parallel_size=4)


def line(diagnosis: Diagnosis, subject: str) -> Line:
    """The one line about a subject."""
    (found,) = [it for it in diagnosis.lines if it.subject == subject]
    return found


def test_a_whole_mi355x_node_is_ready_for_kimi() -> None:
    diagnosis = diagnose(MI355X_NODE, OWN, gpu="mi355x", job=KIMI_JOB)
    assert diagnosis.ok
    assert [it for it in diagnosis.lines if it.level != "ok"] == []
    told = " ".join(it.found for it in diagnosis.lines)
    for fact in ("8 × AMD Instinct MI355X (gfx950)", "hip 7.2.53211", "0.31.0+rocm723", "both run 16", "TRITON_ATTN"):
        assert fact in told


@pytest.mark.parametrize("machine", [MI355X_NODE, MI300X_NODE, H200_NODE, CPU_NODE])
def test_whatever_is_not_ok_comes_with_a_remedy(machine: Machine) -> None:
    broken = replace(machine, packages={}, torch=None, rocm=None, disk_free_bytes=1, host_memory_bytes=1)
    for diagnosis in (diagnose(machine, {}, job=KIMI_JOB), diagnose(broken, {}, gpu="mi355x", job=KIMI_JOB)):
        assert all(bool(it.remedy) == (it.level != "ok") for it in diagnosis.lines)


# GPU and FP8


def test_without_a_gpu_the_rest_still_works() -> None:
    diagnosis = diagnose(CPU_NODE, OWN)
    assert diagnosis.ok
    assert line(diagnosis, "GPU").level == "warning"
    assert "a served speed means nothing here" in line(diagnosis, "GPU").found


def test_a_gpu_that_was_asked_for_must_be_there() -> None:
    assert line(diagnose(CPU_NODE, OWN, gpu="mi355x"), "GPU").level == "error"
    other = line(diagnose(MI300X_NODE, OWN, gpu="mi355x"), "GPU")
    assert (other.level, "gfx942" in other.found, "gfx950" in other.found) == ("error", True, True)
    assert line(diagnose(MI300X_NODE, OWN, gpu="mi300x"), "GPU").level == "ok"


@pytest.mark.parametrize(
    ("arch", "level", "said"),
    [
        ("gfx950", "ok", "multiplies e4m3fn as it is stored"),
        ("gfx942", "warning", "converts weights and scales at load"),
        ("gfx90a", "error", "has no FP8 arithmetic"),
        ("gfx1201", "warning", "is no MI355X"),
        ("sm_90", "ok", "multiplies e4m3fn"),
        ("sm_89", "ok", "multiplies e4m3fn"),
        ("sm_80", "error", "has no FP8 arithmetic"),
        ("sm_100", "ok", "multiplies e4m3fn"),
    ],
)
def test_every_arch_has_the_fp8_that_vllm_gives_it(arch: str, level: str, said: str) -> None:
    machine = replace(MI355X_NODE, gpus=(Gpu(name="GPU", arch=arch, memory_bytes=1),), driver_arches=())
    found = line(diagnose(machine, OWN), "FP8")
    assert found.level == level
    assert said in found.found


@pytest.mark.parametrize("torch", ["2.13.0+cpu", "2.13.0"])
def test_a_torch_that_replaced_the_images_is_told_by_what_the_driver_lists(torch: str) -> None:
    replaced = replace(MI355X_NODE, torch=torch, hip=None, gpus=())
    found = line(diagnose(replaced, OWN), "GPU")
    assert found.level == "error"
    assert f"the driver lists 8 (gfx950), but torch {torch} sees none" in found.found
    assert "--vllm-python" in found.remedy


def test_a_device_that_may_not_be_opened_is_an_error() -> None:
    found = line(diagnose(replace(MI355X_NODE, kfd_is_open=False, gpus=()), OWN), "driver")
    assert (found.level, "--group-add render" in found.remedy) == ("error", True)


def test_gpus_of_two_kinds_are_warned_of() -> None:
    mixed = replace(MI355X_NODE, gpus=(MI355X_NODE.gpus[0], MI300X_NODE.gpus[0]))
    assert line(diagnose(mixed, OWN), "GPU").level == "warning"


# software


def test_rocm_below_7_cannot_run_gfx950() -> None:
    assert line(diagnose(replace(MI355X_NODE, rocm="6.4.1"), OWN), "ROCm").level == "error"
    assert line(diagnose(replace(MI300X_NODE, rocm="6.4.1"), OWN), "ROCm").level == "ok"
    assert line(diagnose(replace(MI355X_NODE, rocm=None), OWN), "ROCm").level == "warning"


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        ("0.32.0", "ok", "0.32.0"),
        ("0.29.0", "ok", "0.29.0"),
        ("0.28.0", "warning", "does not tell what its rounds accepted"),
        ("0.18.1", "warning", "its sources were not read, those of 0.19 to 0.32 were"),
        ("0.33.0", "warning", "its sources were not read"),
        ("weird", "warning", "its sources were not read"),
    ],
)
def test_a_vllm_is_as_good_as_what_was_read_of_it(version: str, level: str, said: str) -> None:
    found = line(diagnose(replace(MI355X_NODE, packages={"vllm": version}), OWN), "vLLM")
    assert found.level == level
    assert said in found.found


def test_what_is_not_installed_is_named_with_its_command() -> None:
    diagnosis = diagnose(replace(MI355X_NODE, packages={}), {})
    assert "--vllm-python" in line(diagnosis, "vLLM").remedy
    assert line(diagnosis, "AITER").level == "warning"
    assert line(diagnosis, "quark").remedy == "pip install 'quark-eagle[quantize]'"
    assert line(diagnosis, "transformers").remedy == "pip install 'quark-eagle[trace]'"
    assert diagnosis.ok, "replay and gate need none of them"


def test_aiter_that_is_off_is_told() -> None:
    assert "off until VLLM_ROCM_USE_AITER=1" in line(diagnose(MI355X_NODE, OWN), "AITER").found
    on = replace(MI355X_NODE, environment={"VLLM_ROCM_USE_AITER": "1"})
    assert line(diagnose(on, OWN), "AITER").found.endswith(", on")


def test_amds_parts_are_not_asked_of_other_machines() -> None:
    assert {"ROCm", "AITER"}.isdisjoint(it.subject for it in diagnose(H200_NODE, OWN).lines)


# attention


def test_aiter_mla_with_eagle3_needs_the_version_that_solved_it() -> None:
    old = replace(MI355X_NODE, packages={**MI355X_NODE.packages, "vllm": "0.19.0"}, block_sizes=BLOCKS_0_19)
    found = line(diagnose(old, OWN, job=KIMI_JOB), "attention blocks")
    assert found.level == "error"
    assert "ROCM_AITER_MLA runs blocks of [1], the draft's TRITON_ATTN of [MultipleOf(16)]" in found.found
    assert "0.20.0 or later" in found.remedy
    assert "pull/39616" in found.remedy


def test_without_aiter_an_mla_target_shares_blocks_in_any_version() -> None:
    packages = {name: version for name, version in MI355X_NODE.packages.items() if name != "aiter"}
    found = line(
        diagnose(replace(MI355X_NODE, packages=packages, block_sizes=BLOCKS_0_19), OWN, job=KIMI_JOB),
        "attention blocks",
    )
    assert (found.level, "TRITON_MLA" in found.found) == ("ok", True)


def test_an_mla_draft_shares_the_targets_backend_and_is_not_pinned() -> None:
    job = replace(KIMI_JOB, draft=replace(FP8_DRAFT, is_mla=True))
    diagnosis = diagnose(replace(MI355X_NODE, block_sizes=BLOCKS_0_19), OWN, job=job)
    assert line(diagnosis, "attention blocks").level == "ok"
    assert "draft attention" not in {it.subject for it in diagnosis.lines}


def test_a_vllm_that_cannot_pin_the_drafts_attention_is_warned_of() -> None:
    found = line(diagnose(replace(MI355X_NODE, speculative_fields=("model",)), OWN, job=KIMI_JOB), "draft attention")
    assert found.level == "warning"
    assert "ROCM_ATTN" in found.found
    assert "0.21.0 or later" in found.remedy


def test_a_backend_that_cannot_be_read_is_said() -> None:
    found = line(
        diagnose(replace(MI355X_NODE, block_sizes={"TRITON_ATTN": "[16]"}), OWN, job=KIMI_JOB), "attention blocks"
    )
    assert (found.level, "has no ROCM_AITER_MLA that could be read" in found.found) == ("warning", True)


def test_amds_attention_is_not_asked_of_other_machines() -> None:
    subjects = {it.subject for it in diagnose(H200_NODE, OWN, job=KIMI_JOB).lines}
    assert {"attention blocks", "draft attention"}.isdisjoint(subjects)


@pytest.mark.parametrize(
    ("first", "second", "size"),
    [
        ("[16, 32]", "[MultipleOf(16)]", 16),
        ("[1]", "[MultipleOf(16)]", None),
        ("[32]", "[MultipleOf(16)]", 32),
        ("[128]", "[16, 32]", None),
        ("[16, 32, 128] or [16, 32]", "[128]", 128),
        ("[MultipleOf(24)]", "[MultipleOf(16)]", 48),
    ],
)
def test_a_shared_block_is_one_that_both_run(first: str, second: str, size: int | None) -> None:
    assert share_a_block(first, second) == share_a_block(second, first) == size


# room


def test_a_target_that_does_not_fit_says_what_is_needed_and_what_there_is() -> None:
    found = line(diagnose(MI355X_NODE, OWN, job=replace(KIMI_JOB, tensor_parallel_size=1)), "GPU memory")
    assert found.level == "error"
    assert "560.1 GB of each GPU's 309.2 GB" in found.found
    assert "--tp" in found.remedy
    assert line(diagnose(MI355X_NODE, OWN, job=KIMI_JOB), "GPU memory").level == "ok"


def test_memory_is_split_weights_whole_draft_and_cache() -> None:
    needed = gpu_bytes(KIMI_JOB)
    assert needed is not None
    rest = needed - 550_000_000_000 // 4 - 5_681_000_000
    assert rest == 61 * 576 * 2 * KIMI_JOB.max_model_len + (4 << 30)
    assert gpu_bytes(replace(KIMI_JOB, target=replace(KIMI, size_bytes=None))) is None


def test_more_gpus_than_there_are_is_an_error() -> None:
    found = line(diagnose(H200_NODE, OWN, job=KIMI_JOB), "GPU memory")
    assert (found.level, found.found) == ("error", "1 GPUs, but the target is split over 4")


def test_a_trace_must_fit_the_disk() -> None:
    assert TraceSize(num_prompts=1, num_tokens=1).size_bytes(7168) == 43_008
    small = replace(MI355X_NODE, disk_free_bytes=14_000_000_000)
    assert line(diagnose(small, OWN, job=KIMI_JOB), "disk").level == "error"
    fewer = TraceSize(num_prompts=32, num_tokens=1024)
    assert line(diagnose(small, OWN, job=KIMI_JOB, trace=fewer), "disk").level == "ok"


def test_both_drafts_must_fit_the_memory() -> None:
    small = replace(MI355X_NODE, host_memory_bytes=12_000_000_000)
    assert line(diagnose(small, OWN, job=KIMI_JOB), "host memory").level == "error"
    assert line(diagnose(MI355X_NODE, OWN, job=KIMI_JOB), "host memory").level == "ok"


def test_sizes_that_are_not_known_are_said_and_not_guessed() -> None:
    job = Job(target=ServedModel.of("amd/Kimi-K2.5-MXFP4", None), draft=FP8_DRAFT)
    diagnosis = diagnose(MI355X_NODE, OWN, job=job)
    assert line(diagnosis, "sizes").found.startswith("amd/Kimi-K2.5-MXFP4: not on this disk")
    assert "GPU memory" not in {it.subject for it in diagnosis.lines}
    assert line(diagnosis, "attention blocks").level == "ok", "known by its family"


def test_the_document_counts_its_lines() -> None:
    diagnosis = diagnose(CPU_NODE, {}, gpu="mi355x")
    document = diagnosis.to_json()
    levels = [it["level"] for it in document["lines"]]
    assert document["ok"] is False
    assert document["num_errors"] == levels.count("error") == diagnosis.count("error") == 1
    assert document["num_warnings"] == levels.count("warning") == 2
