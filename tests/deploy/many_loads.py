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
from tests.deploy.compressed import compressed
from tests.deploy.export import GOOD_EXCLUDE, NAIVE_EXCLUDE, Export
from tests.deploy.static import make_static, scale_cache
from tests.deploy.test_compressed_tensors import BUGS as COMPRESSED_BUGS
from tests.deploy.test_compressed_tensors import GOOD as COMPRESSED
from tests.deploy.test_compressed_tensors import GOOD_MLA as COMPRESSED_MLA
from tests.deploy.test_seeded_bugs import BUGS, MLA, MLA_BUGS
from tests.deploy.test_static_scales import MISTAKES
from tests.deploy.test_verify import LLAMA_VARIANTS
from tests.published import PUBLISHED
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
            made[f"{family.value} {convention.value} compressed-tensors"] = _exported(compressed, draft)
    made |= {name: _exported(change, TinyDraft()) for name, change in COMPRESSED.items()}
    made |= {name: _exported(change, MLA) for name, change in COMPRESSED_MLA.items()}
    for name, draft in LLAMA_VARIANTS.items():
        made[f"llama variant {name}"] = lambda at, draft=draft: Export(draft).write(at)  # type: ignore[misc]
    for name, change in GOOD_CHANGES.items():
        made[name] = _exported(change, TinyDraft())
    # vLLM 0.32 asks for a Llama's qkv_proj with self_attn in its name, and for a Qwen3's without.
    made["llama attention kept by self_attn"] = _exported(_keep_attention(*"qkvo"), TinyDraft())
    made["qwen3 o_proj kept by self_attn"] = _exported(_keep_attention("o"), TinyDraft(family=DraftFamily.QWEN3))
    norms = TinyDraft(convention=Convention.SPECULATORS, fc_norm=True, norm_output=True)
    made["speculators with norms"] = _exported(lambda export: None, norms)
    for name, draft in PUBLISHED.items():
        made[f"{name}, BF16"] = lambda at, draft=draft: write_tiny_draft(at, draft)  # type: ignore[misc]
        made[f"{name}, FP8"] = lambda at, draft=draft: Export(draft).write(at)  # type: ignore[misc]
    peagle = {"speculators_model_type": "peagle", "mask_token_id": 3}
    made["speculators P-EAGLE"] = _exported(
        lambda export: export.config.update(peagle), PUBLISHED["speculators, Llama"]
    )
    no_aux = _both(_says(use_aux_hidden_state=False), lambda export: export.drop("fc.weight"))
    made["ModelOpt, no aux states"] = _exported(no_aux, PUBLISHED[_MODELOPT])
    # Sizes that the CPU's attention kernels take, for whole engines.
    made["servable MLA draft"] = _exported(lambda export: None, TinyDraft(family=DraftFamily.DEEPSEEK_MLA, heads=2))
    return made


def wrong_drafts() -> dict[str, Callable[[Path], Path]]:
    """Every seeded bug, every broken draft whose headers can be read, and shapes that vLLM cuts to size."""
    made = {f"bug: {name}": _exported(seed, TinyDraft()) for name, (seed, _) in BUGS.items()}
    made |= {f"MLA bug: {name}": _exported(seed, MLA) for name, (seed, _) in MLA_BUGS.items()}
    made |= {
        f"compressed-tensors bug: {name}": _exported(seed, TinyDraft()) for name, (seed, _) in COMPRESSED_BUGS.items()
    }
    static = _both(make_static, scale_cache)
    made |= {f"static: {name}": _exported(_both(static, change), TinyDraft()) for name, (change, _) in MISTAKES.items()}
    made |= {f"shape: {name}": _exported(change, TinyDraft()) for name, change in WRONG_SHAPES.items()}
    made |= {f"broken: {name}": broken.write for name, broken in DRAFTS.items()}
    made |= {f"ModelOpt: {name}": _exported(change, PUBLISHED[_MODELOPT]) for name, change in MODELOPT_EXTRAS.items()}
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


def _says(**settings: object) -> Callable[[Export], None]:
    return lambda export: export.config["eagle_config"].update(settings)


def _holds(*names: str) -> Callable[[Export], None]:
    def change(export: Export) -> None:
        for name in names:
            export.tensors[name] = export.tensors["norm.weight"].clone()

    return change


_MODELOPT = "NVIDIA ModelOpt: `eagle_config`"
MODELOPT_EXTRAS: Mapping[str, Callable[[Export], None]] = {
    "norms of an MTP layer": _both(_says(use_mtp_layernorm=True), _holds("enorm.weight", "hnorm.weight")),
    "an MTP layer in name only": _says(use_mtp_layernorm=True),
    "the embedding is not normed": _both(
        _says(use_input_layernorm_in_first_layer=False), lambda export: export.drop("input_layernorm.weight")
    ),
    "no last norm": _both(_says(use_last_layernorm=False), lambda export: export.tensors.pop("norm.weight")),
    "parallel heads": _both(
        _says(parallel_draft_step=4), _holds("parallel_draft_heads.medusa_heads.0.0.linear.weight")
    ),
}
GOOD_CHANGES: Mapping[str, Callable[[Export], None]] = {
    "static, a scale for each weight": make_static,
    "static, a scale for each row": lambda export: make_static(export, "per_channel"),
    "static, with a scaled cache": _both(make_static, scale_cache),
    "dynamic, with a scaled cache": scale_cache,
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
