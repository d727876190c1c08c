"""A linear layer as an engine computes it: in high precision, or in FP8.

What an accelerator does with BF16 operands (products accumulated in float32, the sum rounded once to BF16) a CPU
without BF16 matrix instructions does some seven times slower than in float32. There the operands are widened instead:
every BF16 number is a float32 number, so the products are the same and only the order of summation differs. Widened
copies of small weights are kept; large ones are widened block by block, so memory stays bounded. An FP8 product is the
device's own where it has one (`model.fp8_product`), else exact and in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from quark_eagle.fp8 import FP8_DTYPE, quantize_per_token, quantize_static
from quark_eagle.model.fp8_product import Fp8Product, as_fnuz, fp8_product, gpu_arch

KEEP_WIDENED_BYTES = 64 << 20  # a widened weight up to this size is kept
BLOCK_BYTES = 32 << 20  # a larger one is widened in blocks of this size
LOGITS_BYTES = 256 << 20  # on a GPU nothing is widened: there the outputs are what is held in blocks


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has BF16 matrix instructions (AMX or AVX512-BF16), without which oneDNN's BF16 path crawls."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class Linear:
    """``x [tokens, in] -> [tokens, out]``; the output has the input's dtype, sums are float32.

    With ``scale`` the weight is FP8 and so is the input, quantized by ``input_scale`` or, without one, per token as it
    arrives: ``torch._scaled_mm`` on a device that has it, elsewhere the same product from FP8 values widened to float32
    (an FP8 product is exact in float32), scaled after the sum. The two differ by the order of summation.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        input_scale: Tensor | None = None,
    ) -> None:
        """Take the tensors as they are on disk.

        Args:
            weight: [out, in] bfloat16, float32, or float8_e4m3fn with `scale`.
            scale: of an FP8 weight, float32: [out] or [out, 1], one for each row, or [] or [1], one for all.
            bias: [out], or None.
            input_scale: [] or [1] float32, of a static scheme; None if each token has its own.
        """
        if (weight.dtype == FP8_DTYPE) != (scale is not None):
            raise ValueError("an FP8 weight needs its scale, and a scale needs an FP8 weight")
        if input_scale is not None and scale is None:
            raise ValueError("an input is quantized for an FP8 weight only")
        self.weight, self.bias = weight, bias
        self.scale = None if scale is None else scale.reshape(() if scale.numel() == 1 < len(weight) else -1)
        self.input_scale = None if input_scale is None else input_scale.reshape(())
        self._widened: Tensor | None = None
        self._operands: dict[Fp8Product, tuple[Tensor, Tensor]] = {}

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for ``x`` [tokens, in]."""
        if self.scale is not None:
            y = self._scaled(x)
        elif self._native(x):
            y = torch.nn.functional.linear(x, self.weight)
        else:
            y = self._product(x.float()).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def argmax(self, x: Tensor) -> Tensor:
        """Index [tokens] of the largest output, the lowest one among equals, as ``argmax`` over rounded logits gives.

        Works through the rows in blocks: the [tokens, out] matrix of a 160 k vocabulary is never held.
        """
        best, index = None, None
        for start, logits in self._blocks(x):
            value, where = logits.max(dim=-1)
            if best is None or index is None:
                best, index = value, where + start
            else:
                higher = value > best  # strictly: the earlier block keeps a tie
                best, index = torch.where(higher, value, best), torch.where(higher, where + start, index)
        assert index is not None
        return index

    def _native(self, x: Tensor) -> bool:
        return self.weight.dtype == x.dtype and (x.dtype == torch.float32 or x.is_cuda or cpu_multiplies_bf16())

    def _scaled(self, x: Tensor) -> Tensor:
        assert self.scale is not None
        q, input_scale = self._quantized(x)  # the scale [tokens, 1], or [] if it is static
        product = fp8_product(gpu_arch(x.device), self.out_features, x.shape[-1], x.dtype)
        if product is Fp8Product.WIDENED:
            return (self._product(q.float()) * input_scale * self.scale).to(x.dtype)
        if product is Fp8Product.SCALED_MM_FNUZ:
            q, input_scale = as_fnuz(q, input_scale)
        weight, scale = self._operand(product)
        if scale.dim() and not input_scale.dim():
            input_scale = input_scale.repeat(len(q), 1)  # row-wise on both sides, or on neither
        scaled: Tensor = torch._scaled_mm(q, weight, scale_a=input_scale, scale_b=scale, out_dtype=x.dtype)
        return scaled

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.input_scale is None:
            return quantize_per_token(x)
        return quantize_static(x, self.input_scale), self.input_scale

    def _operand(self, product: Fp8Product) -> tuple[Tensor, Tensor]:
        """The weight [in, out], column-major, and its scale float32, [1, out] or [], in the format of the product."""
        if product not in self._operands:
            assert self.scale is not None
            weight, scale = self.weight.contiguous(), self.scale.float()
            # A scale per token goes with one per row, and `torch._scaled_mm` takes no other mixture.
            if scale.dim() or self.input_scale is None:
                scale = scale.expand(self.out_features).reshape(1, -1).contiguous()
            if product is Fp8Product.SCALED_MM_FNUZ:
                weight, scale = as_fnuz(weight, scale)
            self._operands[product] = weight.t(), scale
        return self._operands[product]

    def _product(self, x: Tensor) -> Tensor:
        """``x @ weight.T`` in float32."""
        if self.weight.dtype == torch.float32:
            return torch.nn.functional.linear(x, self.weight)
        if self.weight.numel() * 4 <= KEEP_WIDENED_BYTES:
            if self._widened is None:
                self._widened = self.weight.float()
            return torch.nn.functional.linear(x, self._widened)
        rows = max(1, BLOCK_BYTES // (4 * self.weight.shape[1]))
        return torch.cat(
            [torch.nn.functional.linear(x, block.float()) for block in torch.split(self.weight, rows)], dim=-1
        )

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first row, outputs [tokens, rows] in x's dtype) over the weight, in order."""
        if self.bias is not None or self.scale is not None or self.weight.numel() * 4 <= KEEP_WIDENED_BYTES:
            yield 0, self(x)
            return
        native = self._native(x)
        wide = x if native else x.float()
        rows = rows_at_once(len(x), self.weight.shape[1], x.element_size(), on_gpu=native and x.is_cuda)
        for start in range(0, self.out_features, rows):
            block = self.weight[start : start + rows]
            yield start, torch.nn.functional.linear(wide, block if native else block.float()).to(x.dtype)


def rows_at_once(num_tokens: int, in_features: int, element_size: int, *, on_gpu: bool) -> int:
    """Rows of a weight whose product is taken at once: as many as are widened at once or, on a GPU, held as outputs.

    >>> rows_at_once(64, 7168, 2, on_gpu=False), rows_at_once(64, 7168, 2, on_gpu=True) > 163840
    (1170, True)
    """
    if on_gpu:
        return max(1, LOGITS_BYTES // (element_size * max(1, num_tokens)))
    return max(1, BLOCK_BYTES // (4 * in_features))
