"""A minimal exporter of PTPC FP8 drafts, written for these tests so that a mistake can be put into each step of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.tiny import TinyDraft, tiny_config, tiny_tensors, write_config, write_tensors

NAIVE_EXCLUDE = ["fc", "lm_head"]
GOOD_EXCLUDE = ["fc", "model.fc", r"re:.*\.fc$", "lm_head", r"re:.*\.kv_b_proj$"]
WEIGHT = {"dtype": "fp8_e4m3", "is_dynamic": False, "qscheme": "per_channel", "ch_axis": 0, "symmetric": True}
INPUT = {"dtype": "fp8_e4m3", "is_dynamic": True, "qscheme": "per_channel", "ch_axis": 1, "symmetric": True}


def quantization_config(exclude: list[str]) -> dict[str, Any]:
    """As Quark 0.13 writes it for ptpc_fp8, without the fields that no reader looks at."""
    return {
        "quant_method": "quark",
        "global_quant_config": {"weight": WEIGHT, "input_tensors": INPUT, "output_tensors": None, "bias": None},
        "exclude": list(exclude),
        "layer_quant_config": {},
        "layer_type_quant_config": {},
        "export": {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real_quantized"},
    }


class Export:
    """What is about to be written: tensors and config, free to be spoilt."""

    def __init__(self, draft: TinyDraft, exclude: list[str] | None = None) -> None:
        self.tensors = tiny_tensors(draft)
        self.config = deepcopy(tiny_config(draft))  # spoilt in depth: kinds of drafts are shared by tests
        self.config["quantization_config"] = quantization_config(GOOD_EXCLUDE if exclude is None else exclude)
        for name in [
            name for name in self.tensors if "_proj" in name and name.endswith(".weight") and "kv_b_proj" not in name
        ]:
            self.quantize(name)

    @property
    def quant(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["quantization_config"]
        return found

    def find(self, end: str) -> str:
        """The one tensor whose name ends so."""
        (name,) = (name for name in self.tensors if name.endswith(end))
        return name

    def quantize(self, end: str) -> None:
        from quark_eagle.fp8 import quantize_per_channel

        name = self.find(end)
        fp8 = quantize_per_channel(self.tensors[name])
        self.tensors[name], self.tensors[f"{name}_scale"] = fp8.q, fp8.scale

    def restore(self, end: str) -> None:
        """Back to high precision, as an exporter that kept it would have left it."""
        import torch

        name = self.find(end)
        self.tensors[name] = self.tensors[name].to(torch.bfloat16)
        del self.tensors[f"{name}_scale"]

    def rename(self, end: str, new: str) -> None:
        self.tensors[new] = self.tensors.pop(self.find(end))

    def drop(self, end: str) -> None:
        del self.tensors[self.find(end)]

    def change(self, end: str, change: Callable[[Any], Any]) -> None:
        name = self.find(end)
        self.tensors[name] = change(self.tensors[name])

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        write_config(directory, deepcopy(self.config))
        write_tensors(directory, {name: tensor.contiguous() for name, tensor in self.tensors.items()})
        return directory
