"""Throughput that AMD published for Eagle3 drafts on MI355X, as data: to be shown beside a sweep of the same target.

Sources: https://rocm.blogs.amd.com/artificial-intelligence/eagle3-speculative-decoding/README.html (2026-07-03) and
https://vllm.ai/blog/2026-07-13-eagle-3-amd-instinct (2026-07-13). The recipes are InferenceX's pull requests 1116 (Kimi
BF16), 1515 (Kimi FP8) and 1234 (MiniMax).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quark_eagle.documents.throughput import ArmName, PublishedCell, PublishedSweep

_CONCURRENCY = (4, 8, 16, 32, 64)
_SOURCE = "rocm.blogs.amd.com, eagle3-speculative-decoding (2026-07-03); vllm.ai, eagle-3-amd-instinct (2026-07-13)"
_TOKENS = (
    "Which tokens are counted is not said; the script behind such figures (InferenceX, utils/process_result.py) "
    "divides input and output together by the GPUs."
)


def _cells(columns: Mapping[ArmName, Sequence[float]]) -> list[PublishedCell]:
    return [
        PublishedCell(arm=arm, concurrency=concurrency, tokens_per_second_per_gpu=value)
        for arm, values in columns.items()
        for concurrency, value in zip(_CONCURRENCY, values, strict=True)
    ]


PUBLISHED = (
    PublishedSweep(
        target="amd/Kimi-K2.5-MXFP4",
        gpu="MI355X",
        arch="gfx950",
        num_gpus=4,
        input_tokens=1024,
        output_tokens=1024,
        num_speculative_tokens={"baseline": 4, "candidate": 6},
        num_seeds=10,
        cells=_cells(
            {
                "none": (82.7, 142.2, 220.5, 342.2, 533.3),
                "baseline": (157.0, 269.1, 399.6, 627.6, 901.6),
                "candidate": (165.2, 270.1, 412.7, 633.8, 936.6),
            }
        ),
        source=_SOURCE,
        remark="The drafts differ in image, --max-model-len, k and a GEMM variable besides precision; the blog: "
        f'"the two paths are not a controlled precision comparison". {_TOKENS}',
    ),
    PublishedSweep(
        target="MiniMaxAI/MiniMax-M2.5",
        gpu="MI355X",
        arch="gfx950",
        num_gpus=4,
        input_tokens=1024,
        output_tokens=1024,
        num_speculative_tokens={"baseline": 3},
        num_seeds=5,
        cells=_cells(
            {
                "none": (90.4, 162.6, 282.7, 484.8, 822.0),
                "baseline": (161.7, 277.9, 436.9, 759.0, 1137.3),
            }
        ),
        source=_SOURCE,
        remark=f"Tensor and expert parallel; no FP8 draft was measured. {_TOKENS}",
    ),
)


def published_for(
    target: str, arch: str, input_tokens: int, output_tokens: int, num_gpus: int
) -> PublishedSweep | None:
    """The table for this target on these GPUs with these lengths, if there is one.

    A target is the published one if it is called as it is, by the last part of its name: a copy on disk has no other
    sign of which weights it holds.

    >>> published_for("/models/Kimi-K2.5-MXFP4", "gfx950", 1024, 1024, 4).num_seeds
    10
    >>> published_for("/models/Kimi-K2.5-MXFP4", "gfx942", 1024, 1024, 4) is None
    True
    """
    wanted = (_last(target), arch, input_tokens, output_tokens, num_gpus)
    return next(
        (
            table
            for table in PUBLISHED
            if wanted == (_last(table.target), table.arch, table.input_tokens, table.output_tokens, table.num_gpus)
        ),
        None,
    )


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
