"""How the FP8 of a replayed draft was computed: by the device, or in its place."""

from __future__ import annotations

from typing import Literal

from quark_eagle.documents.base import Document


class Fp8Arithmetic(Document):
    """What stood for the engine's FP8 when a draft was replayed.

    Attributes:
        products: "device" where a GPU multiplied FP8 matrices by its own instruction; "emulated" where FP8 values were
            widened to float32, as on a CPU; null where nothing is multiplied in FP8.
        activation_scales: "static" where the checkpoint's ``input_scale`` was taken, "per token" where each token's was
            computed; null with the above.
        kv_cache_dtype: "fp8" where keys and values were rounded as an FP8 cache rounds them; "auto" is the model's.
        kv_cache_scales: of an FP8 cache: the checkpoint's own, or the 1 that vLLM takes where it has none.
    """

    products: Literal["device", "emulated"] | None
    activation_scales: Literal["static", "per token"] | None
    kv_cache_dtype: Literal["auto", "fp8"]
    kv_cache_scales: Literal["checkpoint", "1.0"] | None
