"""GraphBuilder: one ONNX graph, written node by node as the forward pass reads.

The weights of the checkpoint are named, not held: they are external data, streamed to their file afterwards. What is
computed here (rotary frequencies, axes) is small and lies inside the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from quark_eagle import __version__
from quark_eagle.checkpoint.reader import TensorInfo
from quark_eagle.onnx_export.ports import Port, Ports
from quark_eagle.onnx_export.tensors import DraftTensors

OPSET = 21
"""The first in which a scale may belong to a token: QuantizeLinear with ``block_size`` and ``output_dtype``."""
IR_VERSION = 10  # of ONNX 1.16, which brought that opset
ALIGNMENT = 4096  # of external data, so that a runtime can map each tensor
_DTYPE = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class GraphBuilder:
    """Nodes in the order of their making; values are known by their names."""

    def __init__(self, name: str, tensors: DraftTensors) -> None:
        """An empty graph over the weights of a draft."""
        self.name, self.tensors = name, tensors
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._weights: dict[str, TensorProto] = {}
        self._scopes: list[str] = []
        self._made: dict[tuple[str, ...], str] = {}
        self.data: dict[str, TensorInfo] = {}
        self.data_bytes = 0

    def __call__(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        output = output or self._fresh(op_type)
        self._add(op_type, inputs, [output], **attributes)
        return output

    def split(self, value: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """The value cut into parts of these sizes."""
        name = self._fresh("Split")
        outputs = [f"{name}.{i}" for i in range(len(sizes))]
        self._add("Split", [value, self.constant(sizes, np.int64)], outputs, axis=axis)
        return outputs

    def once(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node that is added once, however often it is asked for."""
        key = (op_type, *inputs, repr(sorted(attributes.items())))
        if key not in self._made:
            self._made[key] = self(op_type, *inputs, **attributes)
        return self._made[key]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside are called after this module."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32, name: str | None = None) -> str:
        """A small value inside the graph."""
        array: npt.NDArray[Any] = np.asarray(value, dtype=dtype)
        name = name or f"const.{array.dtype}.{'_'.join(map(str, array.reshape(-1).tolist()))}.{array.ndim}"
        self._constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, canonical: str, dims: Sequence[int] | None = None) -> str:
        """A tensor of the checkpoint in its own dtype, under its canonical name.

        Args:
            canonical: its name.
            dims: the shape it is read in; its own by default. Scales are stored as [out] or as [out, 1].
        """
        if canonical not in self._weights:
            info = self.tensors.info(canonical)
            tensor = TensorProto(
                name=canonical,
                data_type=self.tensors.dtype(canonical),
                dims=info.shape if dims is None else dims,
                data_location=TensorProto.EXTERNAL,
            )
            place = {"location": f"{self.name}.onnx.data", "offset": self.data_bytes, "length": info.size_bytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self._weights[canonical] = tensor
            self.data[canonical] = info
            self.data_bytes += info.size_bytes + -info.size_bytes % ALIGNMENT
        return canonical

    def wide(self, canonical: str) -> str:
        """A tensor of the checkpoint as float32."""
        name = self.weight(canonical)
        return name if self._weights[name].data_type == TensorProto.FLOAT else self.cast(name, TensorProto.FLOAT)

    def cast(self, value: str, dtype: int) -> str:
        """The value in another dtype."""
        return self.once("Cast", value, to=dtype)

    def model(self, ports: Ports, metadata: dict[str, str]) -> ModelProto:
        """The graph between these ports."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [_value_info(port) for port in ports.inputs],
            [_value_info(port) for port in ports.outputs],
            initializer=[*self._constants.values(), *self._weights.values()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="quark-eagle",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        return model

    def _add(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=f"{outputs[0]}/{op_type}", **attributes))

    def _fresh(self, op_type: str) -> str:
        return "/".join([*self._scopes, f"{op_type}_{len(self._nodes)}"])


def _value_info(port: Port) -> ValueInfoProto:
    """A port as ONNX declares it, its meaning beside it."""
    return helper.make_tensor_value_info(port.name, _DTYPE[port.dtype], port.dims, doc_string=port.meaning)
