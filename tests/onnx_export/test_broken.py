"""An export that is wrong is found out, though it is valid ONNX and runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, checker

from quark_eagle.onnx_export.compare import compare
from quark_eagle.onnx_export.export import export
from tests.onnx_export.quantized import write_fp8_draft
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(export, FP8 draft, trace)."""
    directory = tmp_path_factory.mktemp("broken")
    bf16 = write_tiny_draft(directory / "bf16", norm_before_residual=True)
    fp8 = write_fp8_draft(bf16, directory / "fp8")
    trace = write_tiny_trace(directory / "trace", bf16, num_prompts=2, num_generated=12)
    export(fp8, directory / "onnx")
    return directory / "onnx", fp8, trace


def node(model: ModelProto, op_type: str, scope: str) -> NodeProto:
    """The first node of that kind in a module."""
    return next(it for it in model.graph.node if it.op_type == op_type and it.name.startswith(scope))


def rewire(model: ModelProto, old: str, new: str) -> None:
    for it in model.graph.node:
        it.input[:] = [new if name == old else name for name in it.input]


def scales_by_column(model: ModelProto) -> None:
    """o_proj is square here, so that its scales fit either axis."""
    weight = next(it for it in model.graph.node if it.input[:1] == ["layers.0.self_attn.o_proj.weight"])
    weight.attribute[0].i = 1


def keys_for_values(model: ModelProto) -> None:
    for it in model.graph.node:
        swap = {"past_key_values.0.key": "past_key_values.0.value", "past_key_values.0.value": "past_key_values.0.key"}
        it.input[:] = [swap.get(name, name) for name in it.input]


def no_hidden_norm(model: ModelProto) -> None:
    last = [it for it in model.graph.node if it.name.startswith("layers.0.hidden_norm")][-1]
    rewire(model, last.output[0], "hidden_states")


def no_final_norm(model: ModelProto) -> None:
    last = [it for it in model.graph.node if it.name.startswith("norm/")][-1]
    rewire(model, last.output[0], node(model, "Slice", "kept").output[0])


def rows_see_no_further_than_before_them(model: ModelProto) -> None:
    node(model, "LessOrEqual", "visible").op_type = "Less"


def padding_is_seen(model: ModelProto) -> None:
    both = node(model, "And", "visible")
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["attention_mask"], ["unread"]))
    both.input[1] = both.input[0]


def all_at_position_one(model: ModelProto) -> None:
    positions = next(it for it in model.graph.node if "rotary" in it.name and it.op_type == "Unsqueeze")
    index = list(model.graph.node).index(positions)
    model.graph.node.insert(index, onnx.helper.make_node("Sign", [positions.input[0]], ["sign"]))
    positions.input[0] = "sign"


def draft_ids_for_target_ids(model: ModelProto) -> None:
    added = node(model, "Add", "token_ids")
    rewire(model, added.output[0], added.input[0])


def gate_for_up(model: ModelProto) -> None:
    rewire(
        model,
        node(model, "MatMul", "layers.0.mlp.up_proj").output[0],
        node(model, "MatMul", "layers.0.mlp.gate_proj").output[0],
    )


def the_normed_state_goes_on(model: ModelProto) -> None:
    going = next(it for it in model.graph.node if it.output[0] == "next_hidden_states")
    going.input[0] = next(it for it in model.graph.node if it.name.startswith("lm_head/MatMul")).input[0]


def activations_stay_float32(model: ModelProto) -> None:
    quantized = node(model, "QuantizeLinear", "layers.0.mlp.down_proj")
    rewire(model, next(it for it in model.graph.node if it.input[:1] == quantized.output).output[0], quantized.input[0])


def a_scale_a_tenth_too_large(model: ModelProto) -> None:
    """Twice as large would be none: FP8 is floating point."""
    constant = next(it for it in model.graph.initializer if it.name.startswith("const.float32.448"))
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(448 / 1.1, np.float32), constant.name))


BREAKS: list[Callable[[ModelProto], None]] = [
    scales_by_column,
    keys_for_values,
    no_hidden_norm,
    no_final_norm,
    rows_see_no_further_than_before_them,
    padding_is_seen,
    all_at_position_one,
    draft_ids_for_target_ids,
    gate_for_up,
    activations_stay_float32,
    a_scale_a_tenth_too_large,
    the_normed_state_goes_on,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda it: it.__name__)
def test_a_broken_step_is_caught(
    break_it: Callable[[ModelProto], None], made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    export_, draft, trace = made
    broken = tmp_path / "onnx"
    shutil.copytree(export_, broken)
    model = onnx.load(export_ / "step.onnx", load_external_data=False)
    break_it(model)
    (broken / "step.onnx").write_bytes(model.SerializeToString())
    found = compare(broken, draft, trace, num_prompts=2)
    assert not found.ok


def test_the_unbroken_one_passes(made: tuple[Path, Path, Path]) -> None:
    assert compare(*made, num_prompts=2).ok
    checker.check_model(str(made[0] / "step.onnx"), full_check=True)
