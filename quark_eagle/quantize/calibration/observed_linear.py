"""ObservedLinear: what stands in a draft for a linear layer that is observed, and the torch module behind it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from quark_eagle.model.linear import Linear, cpu_multiplies_bf16


class ObservedLinear:
    """In the draft's place of a linear that is now a child of a torch module (`model.parts.LinearLayer`)."""

    def __init__(self, call: Callable[[Tensor], Tensor], out_features: int) -> None:
        """``call`` runs whatever module is the child by now; ``out_features``: rows of its weight."""
        self._call, self.out_features = call, out_features

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out] in the same dtype."""
        return self._call(x)

    def argmax(self, x: Tensor) -> Tensor:
        """Index [tokens] of the largest output for ``x`` [tokens, in]."""
        return self(x).argmax(dim=-1)


def torch_linear(layer: Linear) -> nn.Linear:
    """A layer in high precision as torch's own; the weight is shared.

    Where the device does not multiply bfloat16 fast the weight is widened, as `model.linear` does it: the products are
    the same, and an input that is widened has the same values.
    """
    weight = layer.weight
    if weight.device.type == "cpu" and not cpu_multiplies_bf16():
        weight = weight.float()
    out_features, in_features = weight.shape
    made = nn.Linear(in_features, out_features, bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.to(weight.dtype), requires_grad=False)
    return made


def add_under(parent: nn.Module, dotted: str, child: nn.Module) -> None:
    """Put a child under a dotted name, with empty modules on the way there.

    >>> root = nn.Module()
    >>> add_under(root, "layers.0.fc", nn.Identity())
    >>> [name for name, _ in root.named_modules() if name]
    ['layers', 'layers.0', 'layers.0.fc']
    """
    *path, last = dotted.split(".")
    for name in path:
        if name not in dict(parent.named_children()):
            parent.add_module(name, nn.Module())
        parent = parent.get_submodule(name)
    parent.add_module(last, child)
