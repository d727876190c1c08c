"""One mistake of an exporter at a time: each must be called broken, for its own reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.family import DraftFamily
from quark_eagle.deploy.verify import verify
from tests.deploy.export import GOOD_EXCLUDE, INPUT, WEIGHT, Export
from tests.tiny import TinyDraft

MLA = TinyDraft(family=DraftFamily.DEEPSEEK_MLA, q_lora_rank=32)


def excluding(*entries: str) -> Callable[[Export], None]:
    return lambda export: export.quant.update(exclude=list(entries))


def keeping(part: str, *entries: str) -> Callable[[Export], None]:
    """An exporter that kept one matrix in BF16 and thought that the entries say so."""

    def bug(export: Export) -> None:
        export.restore(f"{part}.weight")
        export.quant["exclude"] = [*GOOD_EXCLUDE, *entries]

    return bug


def without(key: str) -> Callable[[Export], None]:
    return lambda export: export.quant.pop(key)


def spelled(
    weight: dict[str, object] | None = None, inputs: dict[str, object] | None = None
) -> Callable[[Export], None]:
    def bug(export: Export) -> None:
        export.quant["global_quant_config"] |= {
            "weight": WEIGHT | (weight or {}),
            "input_tensors": INPUT | (inputs or {}),
        }

    return bug


def scaled(change: Callable[[Any], Any]) -> Callable[[Export], None]:
    return lambda export: export.change("down_proj.weight_scale", change)


def dropping(end: str) -> Callable[[Export], None]:
    return lambda export: export.drop(end)


def renaming(end: str, new: str) -> Callable[[Export], None]:
    return lambda export: export.rename(end, new)


def adding(name: str, like: str) -> Callable[[Export], None]:
    def bug(export: Export) -> None:
        export.tensors[name] = export.tensors[export.find(like)].clone()

    return bug


def quantizing(end: str, *, exclude: list[str] | None = None) -> Callable[[Export], None]:
    def bug(export: Export) -> None:
        export.quantize(end)
        if exclude is not None:
            export.quant["exclude"] = exclude

    return bug


def half_quantized_qkv(export: Export) -> None:
    export.restore("k_proj.weight")


def swapped(export: Export) -> None:
    gate, down = export.find("gate_proj.weight"), export.find("down_proj.weight")
    export.tensors[gate], export.tensors[down] = export.tensors[down], export.tensors[gate]


def config(**changes: object) -> Callable[[Export], None]:
    return lambda export: export.config.update(changes)


def e4m3fnuz(export: Export) -> None:
    import torch

    name = export.find("o_proj.weight")
    export.tensors[name] = export.tensors[name].view(torch.uint8).view(torch.float8_e4m3fnuz)


def nan_byte(export: Export) -> None:
    import torch

    export.tensors[export.find("o_proj.weight")].view(torch.uint8)[3, 5] = 0xFF


def nan_norm(export: Export) -> None:
    export.tensors["norm.weight"][0] = float("inf")


def d2t_outside(export: Export) -> None:
    export.tensors["d2t"][-1] = 10_000


def d2t_doubled(export: Export) -> None:
    export.tensors["d2t"][1] = export.tensors["d2t"][0] - 1


def short_t2d(export: Export) -> None:
    export.tensors["t2d"] = export.tensors["t2d"][:-1]


BUGS: dict[str, tuple[Callable[[Export], None], str]] = {
    # exclude: what is kept must be kept under the name that the engine asks with
    "fc by its name on disk": (excluding("fc"), "model.fc: fc.weight is BF16, but vLLM builds an FP8"),
    "fc as a glob": (excluding("*fc", "*lm_head"), r"exclude has '\*fc', which does not match the name 'model.fc'"),
    "fc as an unanchored expression": (excluding("re:fc"), "exclude has 're:fc', which does not match"),
    "nothing excluded": (excluding(), "no entry of exclude matches the name 'model.fc'"),
    "not an expression": (excluding("model.fc", "re:*fc"), "no regular expression"),
    "o_proj by its name on disk": (
        keeping("o_proj", "midlayer.self_attn.o_proj"),
        "midlayer.self_attn.o_proj.weight is BF16.*exclude has 'midlayer.self_attn.o_proj', which does not match",
    ),
    "o_proj as midlayer expression": (
        keeping("o_proj", "re:.*midlayer.*"),
        "exclude has 're:.*midlayer.*', which does not",
    ),
    "o_proj as the draft's layer 0": (
        keeping("o_proj", "layers.0.self_attn.o_proj"),
        "o_proj.weight is BF16, but vLLM builds an FP8 parameter",
    ),
    "q_proj alone": (keeping("q_proj", r"re:.*\.q_proj$"), "qkv_proj: its parts disagree"),
    "v_proj alone takes qkv with it": (
        keeping("v_proj", "re:.*v_proj"),
        "q_proj.weight is F8_E4M3, but vLLM builds a param",
    ),
    "up_proj alone takes gate with it": (
        keeping("up_proj", "re:.*up_proj"),
        "gate_proj.weight is F8_E4M3, but vLLM builds",
    ),
    "gate_proj alone": (keeping("gate_proj", r"re:.*\.gate_proj"), "gate_up_proj: its parts disagree"),
    "half of qkv": (half_quantized_qkv, "qkv_proj: its parts disagree"),
    "quantized, but excluded": (
        excluding(*GOOD_EXCLUDE, r"re:.*\.down_proj$"),
        "down_proj.weight is F8_E4M3, but vLLM builds a parameter in the model's dtype",
    ),
    "a lookup of the wrong layer only": (
        excluding("model.fc", *(f"model.layers.{n}.mlp.down_proj" for n in range(1, 400))),
        "down_proj.weight is F8_E4M3, but vLLM builds a parameter",
    ),
    # quantization_config: what the engine needs to read it at all
    "no quant_method": (without("quant_method"), "takes the draft for unquantized"),
    "no export": (without("export"), "quantization_config.export is missing.*ValueError"),
    "no exclude": (without("exclude"), "quantization_config.exclude is missing.*TypeError"),
    "exclude is null": (lambda e: e.quant.update(exclude=None), "quantization_config.exclude is None"),
    "no layer_type_quant_config": (
        without("layer_type_quant_config"),
        "layer_type_quant_config is missing.*AttributeErr",
    ),
    "no global_quant_config": (without("global_quant_config"), "global_quant_config is missing"),
    "no kv_cache_group": (lambda e: e.quant["export"].pop("kv_cache_group"), "export.kv_cache_group is missing"),
    "dtype spelled like torch": (spelled({"dtype": "fp8_e4m3fn"}, {"dtype": "fp8_e4m3fn"}), "must both say 'fp8_e4m3'"),
    "weights only": (lambda e: e.quant["global_quant_config"].update(input_tensors=None), "has no input_tensors"),
    "outputs quantized": (
        lambda e: e.quant["global_quant_config"].update(output_tensors=WEIGHT),
        "output_tensors or bias",
    ),
    "dynamic weights": (spelled({"is_dynamic": True}), "which vLLM has no FP8 scheme for"),
    "per-group weights": (spelled({"qscheme": "per_group"}), "per_group weights and per_channel activations"),
    "per-tensor config over per-channel scales": (
        spelled({"qscheme": "per_tensor"}, {"qscheme": "per_tensor"}),
        r"down_proj.weight_scale has shape \[64\], but vLLM builds \[\]",
    ),
    "static config without input_scale": (
        spelled(None, {"qscheme": "per_tensor", "is_dynamic": False}),
        "down_proj.input_scale, which stays at the lowest",
    ),
    # scales
    "scale as a column": (scaled(lambda s: s[:, None]), r"weight_scale has shape \[64, 1\], but vLLM builds \[64\]"),
    "one scale": (scaled(lambda s: s[:1]), r"weight_scale has shape \[1\]"),
    "a negative scale": (scaled(lambda s: -s), "must be positive"),
    "a zero scale": (scaled(lambda s: s * 0), "its smallest scale is 0"),
    "an infinite scale": (scaled(lambda s: s / 0), "64 of 64 numbers are NaN or infinite"),
    "scale as integers": (scaled(lambda s: s.long()), "is I64, but a scale must be F32"),
    "no scale": (dropping("down_proj.weight_scale"), "nothing on disk fills model.layers.0.mlp.down_proj.weight_scale"),
    "no scale of one part": (
        dropping("k_proj.weight_scale"),
        "nothing on disk fills model.layers.0.self_attn.k_proj.we",
    ),
    "scale called as elsewhere": (
        renaming("down_proj.weight_scale", "midlayer.mlp.down_proj.weight_scale_inv"),
        "nothing on disk fills .*down_proj.weight_scale",
    ),
    # tensors
    "two names exchanged": (swapped, r"gate_proj.weight has shape \[64, 128\], but vLLM builds \[128, 64\]"),
    "a name misspelled": (
        renaming("o_proj.weight", "midlayer.self_attn.out_proj.weight"),
        "looks for .*out_proj.weight",
    ),
    "model. before the names": (
        renaming("fc.weight", "model.fc.weight"),
        "looks for 'model.model.fc.weight' and stops. The name begins with 'model.'",
    ),
    "no norm": (dropping("hidden_norm.weight"), "hidden_norm: has no tensor on disk: vLLM leaves it at ones"),
    "no fc": (dropping("fc.weight"), "nothing on disk fills model.fc.weight, which stays at whatever"),
    "no d2t": (dropping("d2t"), "vLLM leaves the map at zeros"),
    "no head of the pruned vocabulary": (dropping("lm_head.weight"), "whose rows are the whole vocabulary"),
    "one more tensor": (
        adding("midlayer.extra.weight", "hidden_norm.weight"),
        "extra.weight: has no parameter to go to",
    ),
    "one layer more than the config": (
        adding("layers.1.hidden_norm.weight", "hidden_norm.weight"),
        "has no parameter to",
    ),
    "a bias that the config denies": (
        adding("midlayer.self_attn.q_proj.bias", "hidden_norm.weight"),
        "q_proj.bias: is dropped without a word",
    ),
    "two names for one parameter": (
        adding("layers.0.hidden_norm.weight", "hidden_norm.weight"),
        "both go to model.layers.0.hidden_norm.weight",
    ),
    "a norm that the config denies": (adding("input_norm.weight", "hidden_norm.weight"), "is skipped without a word"),
    "FP8 head": (quantizing("lm_head.weight"), "lm_head: cannot be quantized: vLLM builds it in the model's dtype"),
    "FP8 fc under an exclude that keeps it": (
        quantizing("fc.weight"),
        "fc.weight is F8_E4M3, but vLLM builds a parameter",
    ),
    "e4m3fnuz": (e4m3fnuz, r"is F8_E4M3FNUZ, but vLLM reads F8_E4M3 \(e4m3fn\)"),
    "NaN in the payload": (nan_byte, r"1 of 4096 numbers are NaN \(byte 0x7f or 0xff\)"),
    "infinity in a kept tensor": (nan_norm, "norm.weight: 1 of 64 numbers are NaN or infinite"),
    "d2t beyond the vocabulary": (d2t_outside, "maps 1 of 96 draft tokens outside the vocabulary of 256"),
    "d2t not one to one": (d2t_doubled, "to a target token that another has"),
    "t2d of another vocabulary": (short_t2d, r"t2d: has shape \[255\], but config.json says vocab_size 256"),
    # config
    "no hidden_size": (lambda e: e.config.pop("hidden_size"), "config.json has no hidden_size"),
    "another hidden_size": (config(hidden_size=128), "but config.json asks for"),
    "another intermediate_size": (config(intermediate_size=96), r"but vLLM builds \[96, 64\] from config.json"),
    "another vocabulary": (config(draft_vocab_size=100), r"d2t has shape \[96\], but config.json asks for \[100\]"),
    "another number of aux states": (
        config(num_aux_hidden_states=4),
        r"fc.weight has shape \[64, 192\], but vLLM builds",
    ),
    "an architecture that vLLM has not": (
        config(architectures=["FooForCausalLM"]),
        "no Eagle3 draft class Eagle3FooForC",
    ),
    "no architecture": (config(architectures=None), "names no architectures"),
    "no model_type": (lambda e: e.config.pop("model_type"), "has no model_type"),
    "norms that are not there": (config(fc_norm=True), "model.fc_norm.2: has no tensor on disk"),
    "biases that are not there": (config(attention_bias=True), "nothing on disk fills .*o_proj.bias"),
    "another embedding width": (config(target_hidden_size=32), "cannot share the target's embedding"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_called_broken_with_its_reason(tmp_path: Path, bug: str) -> None:
    seed, reason = BUGS[bug]
    export = Export(TinyDraft())
    seed(export)

    report = verify(export.write(tmp_path / "out"))

    assert not report.ok
    told = "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)
    assert re.search(reason, told), told


def cache_scale(export: Export) -> None:
    import torch

    export.tensors["midlayer.self_attn.k_scale"] = torch.tensor(0.25)


MLA_BUGS: dict[str, tuple[Callable[[Export], None], str]] = {
    "kv_b_proj quantized": (
        quantizing("kv_b_proj.weight", exclude=["model.fc"]),
        r"kv_b_proj: must stay in high precision: .*W_UK and W_UV.*exclude 're:\.\*\\\\\.kv_b_proj\$'",
    ),
    "kv_b_proj kept, but not excluded": (excluding("model.fc"), "kv_b_proj.weight is BF16, but vLLM builds an FP8"),
    "q_a_proj alone": (keeping("q_a_proj", r"re:.*\.q_a_proj$"), "fused_qkv_a_proj: its parts disagree"),
    "no query rank": (
        config(q_lora_rank=None),
        r"renames \S+kv_a_proj_with_mqa to model.layers.0.self_attn.fused_qkv_a_proj, which it did not",
    ),
    "a scale of its cache": (
        cache_scale,
        r"self_attn.k_scale: has no parameter to go to: vLLM looks for \S+ and stops",
    ),
    "taken for an MTP draft": (config(model_type="deepseek_v3"), "takes for an MTP draft whatever the architecture"),
}


@pytest.mark.parametrize("bug", MLA_BUGS)
def test_a_bug_seeded_in_an_mla_draft_is_called_broken_with_its_reason(tmp_path: Path, bug: str) -> None:
    seed, reason = MLA_BUGS[bug]
    export = Export(MLA)
    seed(export)

    report = verify(export.write(tmp_path / "out"))

    assert not report.ok
    told = "\n".join(f"{finding.subject}: {finding.message}" for finding in report.errors)
    assert re.search(reason, told), told
