"""Many drafts, good ones and deliberately wrong ones, and what one vLLM process made of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.live_load import ENVIRONMENT, SCRIPT, LiveLoad
from quark_eagle.deploy.stand_in import stand_in
from quark_eagle.errors import QuarkEagleError
from tests.broken.drafts import DRAFTS
from tests.deploy.export import GOOD_EXCLUDE, INPUT, NAIVE_EXCLUDE, WEIGHT, Export
from tests.deploy.test_seeded_bugs import BUGS, MLA, MLA_BUGS
from tests.deploy.test_verify import LLAMA_VARIANTS
from tests.tiny import TinyDraft, write_tiny_draft

LAYERS = 12
"""Of the target, so that entries that name a layer can be tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One draft and its load; None if its files contradict themselves, so that it is no checkpoint."""

    directory: Path
    live: LiveLoad | None


def good_drafts() -> dict[str, Callable[[Path], Path]]:
    """Everything that is accepted, in BF16 and in FP8."""
    made: dict[str, Callable[[Path], Path]] = {}
    for family in DraftFamily:
        for convention in Convention:
            draft = TinyDraft(family=family, convention=convention, q_lora_rank=32)
            made[f"{family.value} {convention.value} bf16"] = lambda at, draft=draft: write_tiny_draft(at, draft)  # type: ignore[misc]
            made[f"{family.value} {convention.value} fp8"] = lambda at, draft=draft: Export(draft).write(at)  # type: ignore[misc]
    for name, draft in LLAMA_VARIANTS.items():
        made[f"llama variant {name}"] = lambda at, draft=draft: Export(draft).write(at)  # type: ignore[misc]
    for name, change in GOOD_CHANGES.items():
        made[name] = _exported(change, TinyDraft())
    # vLLM 0.32 asks for a Llama's qkv_proj with self_attn in its name, and for a Qwen3's without.
    made["llama attention kept by self_attn"] = _exported(_keep_attention(*"qkvo"), TinyDraft())
    made["qwen3 o_proj kept by self_attn"] = _exported(_keep_attention("o"), TinyDraft(family=DraftFamily.QWEN3))
    norms = TinyDraft(convention=Convention.SPECULATORS, fc_norm=True, norm_output=True)
    made["speculators with norms"] = _exported(lambda export: None, norms)
    # Sizes that the CPU's attention kernels take, for whole engines.
    made["servable MLA draft"] = _exported(lambda export: None, TinyDraft(family=DraftFamily.DEEPSEEK_MLA, heads=2))
    return made


def wrong_drafts() -> dict[str, Callable[[Path], Path]]:
    """Every seeded bug, every broken draft whose headers can be read, and shapes that vLLM cuts to size."""
    made = {f"bug: {name}": _exported(seed, TinyDraft()) for name, (seed, _) in BUGS.items()}
    made |= {f"MLA bug: {name}": _exported(seed, MLA) for name, (seed, _) in MLA_BUGS.items()}
    made |= {f"shape: {name}": _exported(change, TinyDraft()) for name, change in WRONG_SHAPES.items()}
    made |= {f"broken: {name}": broken.write for name, broken in DRAFTS.items()}
    made["servable draft as Quark exports it"] = _exported(
        lambda export: export.quant.update(exclude=NAIVE_EXCLUDE), TinyDraft(heads=2, kv_heads=1, head_dim=32)
    )
    return made


def _fewer(end: str, axis: int, count: int) -> Callable[[Export], None]:
    return lambda export: export.change(end, lambda tensor: tensor.narrow(axis, 0, count).contiguous())


def _longer(end: str, axis: int) -> Callable[[Export], None]:
    import torch

    def change(export: Export) -> None:
        name = export.find(end)
        data = export.tensors[name].view(torch.uint8) if "float8" in str(export.tensors[name].dtype) else None
        if data is None:
            export.tensors[name] = torch.cat([export.tensors[name]] * 2, dim=axis)
        else:
            export.tensors[name] = torch.cat([data] * 2, dim=axis).view(torch.float8_e4m3fn)

    return change


def _both(*changes: Callable[[Export], None]) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for each in changes:
            each(export)

    return change


def _per_tensor(export: Export) -> None:
    """Static per-tensor scales, as Quark's scheme fp8 has them."""
    import torch

    export.quant["global_quant_config"] |= {
        "weight": WEIGHT | {"qscheme": "per_tensor"},
        "input_tensors": INPUT | {"qscheme": "per_tensor", "is_dynamic": False},
    }
    for name in [name for name in export.tensors if name.endswith("weight_scale")]:
        export.tensors[name] = torch.tensor(0.01)
        export.tensors[name.replace("weight_scale", "input_scale")] = torch.tensor(0.02)


def _zeros(export: Export) -> None:
    """A norm and the rows of a kept matrix that are zeros on disk: not the same as not being there."""
    export.tensors["norm.weight"].zero_()
    export.tensors["fc.weight"][3:7] = 0


def _keep_down(*entries: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        export.restore("down_proj.weight")
        export.quant["exclude"] = [*GOOD_EXCLUDE, *entries]

    return change


def _keep_attention(*parts: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for part in parts:
            export.restore(f"{part}_proj.weight")
        export.quant["exclude"] = [*GOOD_EXCLUDE, r"re:.*\.self_attn\..*"]

    return change


GOOD_CHANGES: Mapping[str, Callable[[Export], None]] = {
    "static per-tensor scales": _per_tensor,
    "kept by the name of its layer": _keep_down(f"model.layers.{LAYERS}.mlp.down_proj"),
    "kept by an expression": _keep_down(r"re:.*\.down_proj$"),
    "zeros that are meant": _zeros,
}
WRONG_SHAPES: Mapping[str, Callable[[Export], None]] = {
    "more rows of gate_proj": _both(_longer("gate_proj.weight", 0), _longer("gate_proj.weight_scale", 0)),
    "more columns of gate_proj": _longer("gate_proj.weight", 1),
    "more rows of q_proj": _both(_longer("q_proj.weight", 0), _longer("q_proj.weight_scale", 0)),
    "fewer rows of v_proj": _fewer("v_proj.weight", 0, 16),
    "more rows of down_proj": _longer("down_proj.weight", 0),
    "more columns of down_proj": _longer("down_proj.weight", 1),
    "more scales of down_proj": _longer("down_proj.weight_scale", 0),
    "more scales of up_proj": _longer("up_proj.weight_scale", 0),
    "fewer columns of o_proj": _fewer("o_proj.weight", 1, 32),
    "more rows of fc": _longer("fc.weight", 0),
    "more rows of the head": _longer("lm_head.weight", 0),
    "a longer norm": _longer("hidden_norm.weight", 0),
    "kept by another layer's name": _keep_down("model.layers.11.mlp.down_proj"),
}


def _exported(change: Callable[[Export], None], draft: TinyDraft) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        export = Export(draft)
        change(export)
        return export.write(directory)

    return write


def load_all(scratch: Path) -> dict[str, Loaded]:
    """All of them, written and loaded in one process."""
    drafts: dict[str, Path] = {}
    for i, (name, write) in enumerate((good_drafts() | wrong_drafts()).items()):
        (scratch / f"draft-{i}").mkdir()
        drafts[name] = write(scratch / f"draft-{i}")
    readable = {name: directory for name, directory in drafts.items() if _is_checkpoint(directory)}
    answers = dict(zip(readable, ask_vllm(list(readable.values()), write_target(scratch / "target")), strict=True))
    return {name: Loaded(directory=directory, live=answers.get(name)) for name, directory in drafts.items()}


def write_target(directory: Path) -> Path:
    """A target's config.json, nested as a multimodal one's is; it has no weights."""
    directory.mkdir()
    text = {"hidden_size": 64, "num_hidden_layers": LAYERS, "vocab_size": 256}
    (directory / "config.json").write_text(json.dumps({"text_config": text}), encoding="utf-8")
    return directory


def ask_vllm(drafts: Sequence[Path], target: Path) -> list[LiveLoad]:
    """Each draft loaded beside a stand-in for the target, in one process."""
    beside = target.with_name("stand-in")
    beside.mkdir()
    config = stand_in({}, json.loads((target / "config.json").read_text(encoding="utf-8")), "bfloat16")
    (beside / "config.json").write_text(json.dumps(config), encoding="utf-8")
    asked = {"record": str(SCRIPT.parent), "loads": [[str(draft), str(beside)] for draft in drafts]}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("load_many.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "ERROR"},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [LiveLoad.of(answer) for answer in json.loads(done.stdout.rpartition("ANSWER")[2])]


def _is_checkpoint(directory: Path) -> bool:
    try:
        Checkpoint.open(directory)
    except QuarkEagleError:
        return False
    return True
