"""OnnxDraft: the exported graphs in onnxruntime, on the CPU.

onnxruntime 1.31 pulls Q and DQ into the products that they surround, and its product of quantized operands
(``MatMulIntegerToFloat``) does not take FP8: the session is refused as an ``INVALID_GRAPH``. With
``session.disable_quant_qdq`` set the nodes stay as they are and are computed one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper

from quark_eagle.onnx_export.ports import COMBINE, STEP

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step gave, for the rows that were asked for; ``present`` by layer and part, as ``past`` goes in.

    Attributes:
        head: logits [batch, kept, draft_vocab], or what the borrowed head reads, [batch, kept, hidden].
        token_ids: [batch, kept], or None where the head is borrowed.
        next_hidden_states: [batch, kept, hidden].
        present: cache by name, ``0.key`` and so on.
        quantized: by module what its FP8 product reads, dequantized, [batch, rows, in].
    """

    head: FloatArray
    token_ids: IntArray | None
    next_hidden_states: FloatArray
    present: Mapping[str, FloatArray]
    quantized: Mapping[str, FloatArray]


class OnnxDraft:
    """An exported draft whose FP8 numbers can be seen: its graphs, with those among the outputs."""

    def __init__(self, directory: Path, num_threads: int = 0) -> None:
        """Loads both graphs; ``num_threads`` 0 means one for each core."""
        self._combine = _Graph(directory, COMBINE, num_threads)
        self._step = _Graph(directory, STEP, num_threads)

    @property
    def takes_embeds(self) -> bool:
        """Whether a step takes embeddings instead of token ids."""
        return "inputs_embeds" in self._step.inputs

    def combine(self, aux_hidden_states: FloatArray) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """[batch, rows, hidden] of the target's states [batch, rows, num_aux * target_hidden], and FP8 numbers."""
        made = self._combine.run({"aux_hidden_states": aux_hidden_states})
        return made["hidden_states"], self._combine.quantized_of(made)

    def step(
        self,
        tokens: FloatArray | IntArray,
        hidden_states: FloatArray,
        position_ids: IntArray,
        *,
        past: Mapping[str, FloatArray] | None = None,
        attention_mask: IntArray | None = None,
        keep: int = 0,
    ) -> Step:
        """One step of a batch.

        Args:
            tokens: ids [batch, rows], or embeddings [batch, rows, hidden] where the graph takes them.
            hidden_states: [batch, rows, hidden].
            position_ids: [batch, rows].
            past: cache, as `Step.present`; empty if not given.
            attention_mask: [batch, past + rows]; everything may be seen if not given.
            keep: last rows to put out; 0 means all.
        """
        batch, rows = position_ids.shape
        past = self._empty(batch) if past is None else past
        total = rows + next(iter(past.values())).shape[2]
        made = self._step.run(
            {
                "inputs_embeds" if self.takes_embeds else "input_ids": tokens,
                "hidden_states": hidden_states,
                "attention_mask": np.ones((batch, total), np.int64) if attention_mask is None else attention_mask,
                "position_ids": position_ids,
                "logits_to_keep": np.array(keep, np.int64),
                **{f"past_key_values.{name}": array for name, array in past.items()},
            }
        )
        return Step(
            head=made["logits"] if "logits" in made else made["last_hidden_state"],
            token_ids=made.get("token_ids"),
            next_hidden_states=made["next_hidden_states"],
            present={name.removeprefix("present."): it for name, it in made.items() if name.startswith("present.")},
            quantized=self._step.quantized_of(made),
        )

    def _empty(self, batch: int) -> dict[str, FloatArray]:
        return {
            name.removeprefix("past_key_values."): np.zeros((batch, shape[1], 0, shape[3]), np.float32)
            for name, shape in self._step.inputs.items()
            if name.startswith("past_key_values.")
        }


class _Graph:
    """One graph in a session, and what its FP8 products read."""

    def __init__(self, directory: Path, name: str, num_threads: int) -> None:
        model = onnx.load(directory / f"{name}.onnx", load_external_data=False)
        self._quantized = _quantized_inputs(model)
        outputs = {it.name for it in model.graph.output}
        for value in sorted(set(self._quantized.values()) - outputs):
            model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
        self._session = session(model.SerializeToString(), num_threads, weights_in=directory)
        self.inputs: dict[str, list[Any]] = {it.name: it.shape for it in self._session.get_inputs()}
        self._outputs = [it.name for it in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name."""
        return dict(zip(self._outputs, self._session.run(None, dict(feeds)), strict=True))

    def quantized_of(self, made: Mapping[str, Any]) -> dict[str, FloatArray]:
        """By module, among what a run gave."""
        return {module: made[value] for module, value in self._quantized.items()}


def _quantized_inputs(model: ModelProto) -> dict[str, str]:
    """By canonical module the value that its product reads, where that comes out of a DequantizeLinear."""
    dequantized = {it.output[0] for it in model.graph.node if it.op_type == "DequantizeLinear"}
    products = (it for it in model.graph.node if it.op_type == "MatMul" and it.input[0] in dequantized)
    return {it.output[0].split("/")[0]: it.input[0] for it in products}


def session(model: Path | bytes, num_threads: int = 0, *, weights_in: Path | None = None) -> Any:
    """An onnxruntime session that computes FP8 Q and DQ as they stand.

    Args:
        model: a file, or its content.
        num_threads: 0 means one for each core.
        weights_in: where external data lies, for a model that is no file.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if weights_in is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_in))
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
