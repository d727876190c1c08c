"""Arguments and options that several commands share: each is declared once, with its help, and reused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DraftArg = Annotated[
    str,
    typer.Argument(
        metavar="DRAFT", help="BF16 Eagle3 draft: a local directory or a Hugging Face id.", show_default=False
    ),
]
CheckpointArg = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Quantized checkpoint: a directory, as `quantize` writes it, or a Hugging Face id.",
        show_default=False,
    ),
]
TargetArg = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="Target model: a local directory or a Hugging Face id.", show_default=False),
]
BaselineArg = Annotated[
    str, typer.Argument(metavar="BASELINE", help="The BF16 draft that is compared with.", show_default=False)
]
CandidateArg = Annotated[
    str, typer.Argument(metavar="CANDIDATE", help="The FP8 draft under comparison.", show_default=False)
]
TraceOption = Annotated[
    Path,
    typer.Option(
        "--trace", metavar="TRACE", help="Trace directory recorded by `quark-eagle trace`.", show_default=False
    ),
]
OptionalTraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="TRACE", help="Trace directory recorded by `quark-eagle trace`.", show_default=False
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="OUT", help="Directory to write: it appears whole or not at all.", show_default=False
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REV",
        help="Branch, tag or commit of a Hugging Face id; the same as owner/name@REV.",
        show_default=False,
    ),
]
VllmPythonOption = Annotated[
    Path | None,
    typer.Option(
        "--vllm-python", metavar="PYTHON", help="Python that has vLLM. By default our own.", show_default=False
    ),
]
TensorParallelOption = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size", "--tp", min=1, metavar="N", help="GPUs of the target. Default: as published."
    ),
]
ReplayDeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help="Where drafts are replayed: cpu, cuda (ROCm too), cuda:1; auto is a GPU if there is one."
    ),
]
KvCacheDtypeOption = Annotated[
    Literal["auto", "fp8"],
    typer.Option(
        "--kv-cache-dtype",
        help="Of CANDIDATE's KV cache: auto is what its config asks for, usually the model's dtype; fp8 takes its "
        "k and v scales, or 1 where it has none.",
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="PATTERN",
        help="Keep matching tensors or modules as they are, e.g. '*.down_proj'. May be repeated.",
        show_default=False,
    ),
]
QuantizeFcFlag = Annotated[
    bool, typer.Option("--quantize-fc", help="Quantize fc too. SGLang cannot load such a draft.")
]
OverwriteFlag = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output; the old one survives a failure.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object and nothing else.")]


def speculative_tokens(help: str) -> Any:
    """The option -k of a command, whose default is the command's own: its help says which."""
    return typer.Option("--num-speculative-tokens", "-k", min=1, max=16, metavar="K", help=help, show_default=False)


SpeculativeTokensOption = Annotated[
    int | None,
    speculative_tokens(
        "Tokens proposed per draft (k). Default: the recipe's where drafts are served; for replay that of the draft "
        "served with the trace, else 3."
    ),
]
