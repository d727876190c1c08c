"""Tiny FP8 drafts in every scheme, from `quark_eagle.fp8` alone: importing Quark would take 20 seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from quark_eagle.fp8 import FP8_MAX, quantize_per_channel

SchemeName = Literal["ptpc_fp8", "fp8", "fp8_channel_static"]
INPUT_SCALE = 0.02  # of tiny drafts, whose activations stay below 9


def write_fp8_draft(draft: Path, directory: Path, scheme: SchemeName = "ptpc_fp8", *, column: bool = False) -> Path:
    """The draft with its layers' linear weights in FP8.

    Args:
        draft: a tiny BF16 draft in one file.
        directory: to be made.
        scheme: which.
        column: channel scales as [out, 1], as compressed-tensors writes them, instead of [out].
    """
    tensors = {}
    for name, tensor in load_file(draft / "model.safetensors").items():
        if not name.endswith("_proj.weight") or "kv_b_proj" in name:
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        if scheme == "fp8":
            scale = tensor.abs().amax().float() / FP8_MAX
            tensors[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        else:
            made = quantize_per_channel(tensor)
            tensors[name], scale = made.q, made.scale[:, None].contiguous() if column else made.scale
        tensors[f"{module}.weight_scale"] = scale
        if scheme != "ptpc_fp8":
            tensors[f"{module}.input_scale"] = torch.tensor(INPUT_SCALE)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((draft / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "quark"}}))
    return directory
