"""One scale for a whole weight: which weights share it, and the largest magnitude among them.

vLLM 0.32 runs a fused module with a single per-tensor scale. Parts that come with different ones are put back into FP16
and quantized again to the largest at load (``w8a8_utils.py``, `requantize_with_max_scale`): they are rounded twice, and
what runs is not what was written. So the parts are given the largest scale here, as Quark's ``weight_merge_groups``
gives it them, and what vLLM does then changes nothing (`quark_eagle.quantize.soundness`, `require_kept_by_vllm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import QuantizationError
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.quark_backend import BLOCK_ELEMENTS
from quark_eagle.quantize.streaming import row_blocks

if TYPE_CHECKING:
    from torch import Tensor


def sharing(plan: QuantPlan, name: str) -> tuple[str, ...]:
    """The quantized weights that run in one module with this one, itself among them."""
    (group,) = (decision.fusion_group for decision in plan.decisions if decision.tensor == name)
    if group is None:
        return (name,)
    quantized = frozenset(plan.quantized)
    return tuple(each.tensor for each in plan.decisions if each.fusion_group == group and each.tensor in quantized)


def merge_groups(plan: QuantPlan) -> list[list[str]]:
    """The parts of each fused module of a plan, as Quark spells ``export.weight_merge_groups``; sorted."""
    groups = {sharing(plan, name) for name in plan.quantized}
    parts = {tuple(f"*{name.removesuffix('.weight').rpartition('.')[2]}" for name in group) for group in groups}
    return sorted(sorted(names) for names in parts if len(names) > 1)


def largest_magnitude(checkpoint: Checkpoint, names: Sequence[str]) -> Tensor:
    """The largest absolute value of some weights, [] in their dtype; NaN or infinite if one of theirs is.

    Raises:
        QuantizationError: their dtypes differ, so that the one scale would be rounded differently in each.
    """
    import torch

    dtypes = {name: checkpoint.tensors[name].dtype for name in names}
    if len(set(dtypes.values())) > 1:
        found = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise QuantizationError(
            f"{checkpoint.directory}: {found}, but they run as one module and share a scale. Convert them to one dtype."
        )
    blocks = (
        rows.abs().amax()
        for name in names
        for _, rows in row_blocks(checkpoint, checkpoint.tensors[name], BLOCK_ELEMENTS)
    )
    return torch.stack(list(blocks)).amax()
