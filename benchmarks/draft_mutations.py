"""Silent faults of an FP8 draft: each is applied to a good checkpoint, loads without a complaint, and is known by name.

They are the faults that exporters and engines have had: a scale that belongs to other weights, bytes read in another
format, parts in another order, tensors that were left behind. None depends on the draft's values, only on its layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint

LAYER = "layers.0."
ATTENTION, MLP = f"{LAYER}self_attn.", f"{LAYER}mlp."
FUSED = ("q_proj", "k_proj", "v_proj")
FNUZ_MAX = torch.finfo(torch.float8_e4m3fnuz).max


@dataclass(slots=True, kw_only=True)
class Draft:
    """An FP8 draft in memory, to be changed: tensors by canonical name, as they were on disk."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    names: dict[str, str]  # on disk, by canonical name
    layout: Eagle3Layout

    @classmethod
    def read(cls, directory: Path) -> Draft:
        """The checkpoint in a directory."""
        checkpoint = Checkpoint.open(directory)
        layout = Eagle3Layout.of(checkpoint)
        names = dict(layout.by_canonical)
        return cls(
            config=json.loads((directory / "config.json").read_text(encoding="utf-8")),
            tensors={canonical: checkpoint.tensor(name).clone() for canonical, name in names.items()},
            names=names,
            layout=layout,
        )

    def write(self, directory: Path) -> Path:
        """Its checkpoint, one shard, into a directory to be made."""
        directory.mkdir(parents=True)
        tensors = {self.names[canonical]: tensor.contiguous() for canonical, tensor in self.tensors.items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        return directory

    @property
    def modules(self) -> list[str]:
        """Canonical names of those that have a scale."""
        return [name.removesuffix(".weight_scale") for name in self.tensors if name.endswith(".weight_scale")]

    def bytes_of(self, name: str) -> Tensor:
        """A weight's bytes, as a view."""
        return self.tensors[f"{name}.weight"].view(torch.uint8)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault: what went wrong in words, and how."""

    name: str
    apply: Callable[[Draft], None]

    def write(self, draft: Path, directory: Path) -> Path:
        """The faulty checkpoint, made from a good one."""
        faulty = Draft.read(draft)
        self.apply(faulty)
        return faulty.write(directory)


def scaled(factor: float, *modules: str) -> Callable[[Draft], None]:
    """The scales of some modules, or of all, multiplied."""

    def fault(draft: Draft) -> None:
        for module in modules or draft.modules:
            draft.tensors[f"{module}.weight_scale"] *= factor

    return fault


def of_the_neighbour(*modules: str) -> Callable[[Draft], None]:
    """Every row multiplied by the scale of the row before it."""

    def fault(draft: Draft) -> None:
        for module in modules or draft.modules:
            draft.tensors[f"{module}.weight_scale"] = draft.tensors[f"{module}.weight_scale"].roll(1)

    return fault


def one_scale_per_tensor(draft: Draft) -> None:
    for module in draft.modules:
        scale = draft.tensors[f"{module}.weight_scale"]
        scale.fill_(scale.max().item())


def fnuz_bytes(draft: Draft) -> None:
    """Quantized for e4m3fnuz (largest number 240, one exponent step lower), and read as e4m3fn."""
    for module in draft.modules:
        weight = draft.tensors[f"{module}.weight"].float() * draft.tensors[f"{module}.weight_scale"][:, None]
        scale = (weight.abs().amax(dim=1) / FNUZ_MAX).clamp(min=1e-12)
        q = (weight / scale[:, None]).clamp(-FNUZ_MAX, FNUZ_MAX).to(torch.float8_e4m3fnuz)
        draft.tensors[f"{module}.weight"] = q.view(torch.float8_e4m3fn)
        draft.tensors[f"{module}.weight_scale"] = scale


def fused_in_order(*order: str) -> Callable[[Draft], None]:
    """q, k and v laid into their fused module in this order, and read from it as q, k, v."""

    def fault(draft: Draft) -> None:
        for end in ("weight", "weight_scale"):
            sizes = [len(draft.tensors[f"{ATTENTION}{part}.{end}"]) for part in FUSED]
            laid = torch.cat([_raw(draft.tensors[f"{ATTENTION}{part}.{end}"]) for part in order])
            for part, piece in zip(FUSED, laid.split(sizes), strict=True):
                name = f"{ATTENTION}{part}.{end}"
                draft.tensors[name] = piece.clone().view(draft.tensors[name].dtype)

    return fault


def swapped(first: str, second: str) -> Callable[[Draft], None]:
    """Two modules of one shape under each other's name."""

    def fault(draft: Draft) -> None:
        for end in ("weight", "weight_scale"):
            a, b = f"{first}.{end}", f"{second}.{end}"
            draft.tensors[a], draft.tensors[b] = draft.tensors[b], draft.tensors[a]

    return fault


def rolled_kv_heads(draft: Draft) -> None:
    """Each group of queries attends to the next group's values, as ranks that were dealt the wrong shard."""
    width = draft.layout.geometry.head_dim
    for end in ("weight", "weight_scale"):
        name = f"{ATTENTION}v_proj.{end}"
        draft.tensors[name] = _raw(draft.tensors[name]).roll(width, 0).view(draft.tensors[name].dtype)


def stale_d2t(draft: Draft) -> None:
    """From the middle of the draft's vocabulary on, each id means the token of the id after it."""
    d2t = draft.tensors["d2t"]
    ids = torch.arange(len(d2t), dtype=d2t.dtype)
    targets, middle = d2t + ids, len(d2t) // 2
    draft.tensors["d2t"] = torch.cat([targets[:middle], targets[middle:].roll(-1)]) - ids


def ones(norm: str) -> Callable[[Draft], None]:
    """A norm's weight that was never loaded."""

    def fault(draft: Draft) -> None:
        draft.tensors[f"{norm}.weight"].fill_(1.0)

    return fault


def dead_head_rows(draft: Draft) -> None:
    """The first eighth of the head's rows."""
    head = draft.tensors["lm_head.weight"]
    head[: len(head) // 8] = 0


def rolled_head(draft: Draft) -> None:
    draft.tensors["lm_head.weight"] = draft.tensors["lm_head.weight"].roll(1, 0)


def dead_block(module: str, share: int) -> Callable[[Draft], None]:
    """The first 1 / share of a weight's columns: inputs that count for nothing."""

    def fault(draft: Draft) -> None:
        raw = draft.bytes_of(module)
        raw[:, : raw.shape[1] // share] = 0

    return fault


def truncated_rows(draft: Draft) -> None:
    """The last quarter of down_proj's rows, as after a copy that ended early into a file that had its length."""
    raw = draft.bytes_of(f"{MLP}down_proj")
    raw[-(len(raw) // 4) :] = 0


def aux_in_reverse(draft: Draft) -> None:
    """The target's states laid side by side from the last layer to the first."""
    fc, parts = draft.tensors["fc.weight"], draft.layout.geometry.num_aux_hidden_states
    draft.tensors["fc.weight"] = torch.cat(fc.chunk(parts, dim=1)[::-1], dim=1)


def rope_theta(factor: float) -> Callable[[Draft], None]:
    return lambda draft: draft.config.update(rope_theta=draft.config["rope_theta"] * factor)


def exclude_as_quark_spells_it(draft: Draft) -> None:
    draft.config["quantization_config"]["exclude"] = ["fc", "lm_head"]


def _raw(tensor: Tensor) -> Tensor:
    """Bytes of an FP8 tensor, which torch can move, another tensor as it is."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


MUTATIONS = (
    Mutation("excluded fc read as FP8", exclude_as_quark_spells_it),
    Mutation("every scale × 2", scaled(2.0)),
    Mutation("every scale ÷ 2", scaled(0.5)),
    Mutation("down_proj's scale × 2", scaled(2.0, f"{MLP}down_proj")),
    Mutation("down_proj's scale ÷ 2", scaled(0.5, f"{MLP}down_proj")),
    Mutation("o_proj's scale × 1.05", scaled(1.05, f"{ATTENTION}o_proj")),
    Mutation("every row the scale of its neighbour", of_the_neighbour()),
    Mutation("down_proj's rows the neighbour's scale", of_the_neighbour(f"{MLP}down_proj")),
    Mutation("one scale per tensor over per-channel bytes", one_scale_per_tensor),
    Mutation("e4m3fnuz bytes read as e4m3fn", fnuz_bytes),
    Mutation("q and k swapped in qkv", fused_in_order("k_proj", "q_proj", "v_proj")),
    Mutation("k and v swapped in qkv", fused_in_order("q_proj", "v_proj", "k_proj")),
    Mutation("gate and up swapped", swapped(f"{MLP}gate_proj", f"{MLP}up_proj")),
    Mutation("v of the neighbouring head", rolled_kv_heads),
    Mutation("stale d2t", stale_d2t),
    Mutation("hidden_norm left at ones", ones(f"{LAYER}hidden_norm")),
    Mutation("final norm left at ones", ones("norm")),
    Mutation("dead block of head rows", dead_head_rows),
    Mutation("head one row off", rolled_head),
    Mutation("zeroed third of o_proj", dead_block(f"{ATTENTION}o_proj", 3)),
    Mutation("down_proj cut short by a quarter", truncated_rows),
    Mutation("aux states in reverse order", aux_in_reverse),
    Mutation("rope theta ÷ 10", rope_theta(0.1)),
)
