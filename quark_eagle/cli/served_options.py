"""The options that only a served measurement takes, each absent unless it is given, and what they come to together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from quark_eagle.serve_options import ServeOptions
    from quark_eagle.trace.record_options import RecordOptions


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, show_default=False, help=f"vllm: {help}", **settings)


TargetOption = Annotated[
    str | None, _option("--target", metavar="TARGET", help="What is served: a directory or a Hugging Face id.")
]
PromptsOption = Annotated[
    Path | None, _option("--prompts", metavar="FILE", help="As `trace` takes them. Default: the package's own.")
]
SplitOption = Annotated[str | None, _option("--split", help="Ask the prompts of this split. Default: parity.")]
LimitOption = Annotated[
    int | None, _option("--limit", min=1, metavar="N", help="Ask N prompts, spread over the categories.")
]
MaxTokensOption = Annotated[
    int | None, _option("--max-tokens", min=1, metavar="N", help="Tokens of an answer, at most. Default: 128.")
]
TemperatureOption = Annotated[float | None, _option("--temperature", min=0, help="Default: 0, greedy.")]
TopPOption = Annotated[float | None, _option("--top-p", help="Of the distribution at that temperature. Default: 1.")]
SeedOption = Annotated[
    int | None, _option("--seed", min=0, help="Of sampling, where the engine takes one. Default: 0.")
]
BlocksOption = Annotated[
    int | None,
    _option(
        "--blocks",
        min=1,
        metavar="N",
        help="Passes of each draft over all prompts, interleaved. Default: 3, and 4 with --devices.",
    ),
]
ConcurrencyOption = Annotated[
    int | None, _option("--concurrency", min=1, metavar="N", help="Requests in flight at most. Default: 16.")
]
DeterministicOption = Annotated[
    bool,
    _option(
        "--deterministic",
        help="One request at a time: no noise of batches, so that equal runs count equally. Takes about as many times "
        "longer as --concurrency says. (The engine's own way on a GPU is VLLM_BATCH_INVARIANT=1 in the environment: "
        "other kernels than production's. It is passed on and recorded.)",
    ),
]
OneAtATimeOption = Annotated[
    bool, _option("--one-at-a-time", help="Never two servers at once, whatever memory there is: more loads.")
]
DevicesOption = Annotated[
    str | None,
    _option(
        "--devices",
        metavar="0,1/2,3",
        help="Serve both drafts at the same time, each on its own GPUs, and let them trade places once.",
    ),
]
BaselineUrlOption = Annotated[
    str | None,
    _option(
        "--baseline-url",
        metavar="URL",
        help="Ask this server for BASELINE; nothing is started. It has to run with VLLM_SERVER_DEV_MODE=1, to tell its "
        "draft.",
    ),
]
CandidateUrlOption = Annotated[
    str | None, _option("--candidate-url", metavar="URL", help="The same for CANDIDATE; with --baseline-url.")
]
GpuOption = Annotated[
    str | None, _option("--gpu", help="Whose recipe is served: mi355x, …, cpu. Default: the one the engine sees.")
]
TensorParallelOption = Annotated[
    int | None,
    _option("--tensor-parallel-size", min=1, help="GPUs that the target is split over. Default: the recipe's."),
]
VllmOption = Annotated[
    list[str] | None,
    _option("--vllm-option", metavar="FLAG[=VALUE]", help="A further flag of every server; may be repeated."),
]
VllmBinOption = Annotated[
    Path | None, _option("--vllm-bin", metavar="VLLM", help="The `vllm` script of an environment, for --vllm-python.")
]
ReadySecondsOption = Annotated[
    float | None, _option("--ready-seconds", min=1, help="Wait so long for a server to start. Default: 1800.")
]
TrustRemoteCodeOption = Annotated[
    bool, _option("--trust-remote-code", help="Let vLLM run Python that the target brings along.")
]


def require_engine(engine: str, serve: ServeOptions) -> None:
    """See that options of serving come with it, and it with a target.

    Raises:
        UsageError: they do not.
    """
    from quark_eagle.errors import UsageError
    from quark_eagle.serving.refused_flags import name_of

    if engine == "vllm" and serve.target is None:
        raise UsageError("--engine vllm: serves the target, but none was given. Give --target TARGET.")
    lonely = [option for option in serve.given if option not in ("--target", "--limit")]
    if engine != "vllm" and lonely:
        raise UsageError(f"{', '.join(lonely)}: for --engine vllm. Add it, or leave these out.")
    if "--tensor-parallel-size" in map(name_of, serve.vllm_option or []):
        raise UsageError("--vllm-option --tensor-parallel-size: is an option of its own. Give it as that.")


def recording(serve: ServeOptions, num_speculative_tokens: int | None) -> RecordOptions:
    """How vLLM records: as it serves, which the same options say."""
    from quark_eagle.trace.record_options import RecordOptions
    from quark_eagle.trace.vllm_options import VllmOptions, options_of_servers

    return RecordOptions(
        trust_remote_code=bool(serve.trust_remote_code),
        vllm=VllmOptions(
            python=serve.vllm_python,
            bin=serve.vllm_bin,
            gpu=serve.gpu,
            tensor_parallel_size=serve.tensor_parallel_size,
            num_speculative_tokens=num_speculative_tokens,
            options=options_of_servers(serve.vllm_option or []),
        ),
    )
