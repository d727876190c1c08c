"""`quark-eagle parity --engine vllm`: from options to a comparison of two drafts in a real engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quark_eagle.documents.parity import ParityReport
    from quark_eagle.parity.served.measure import ServedComparison
    from quark_eagle.parity.served.session import PassResult
    from quark_eagle.serve_options import ServeOptions

STARTING = (
    "--target",
    "--devices",
    "--gpu",
    "--tensor-parallel-size",
    "--vllm-option",
    "--vllm-python",
    "--vllm-bin",
    "--one-at-a-time",
    "--trust-remote-code",
    "--ready-seconds",
)
"""Options that say how servers are started."""
DISK_BYTES_PER_SECOND = 1e9  # assumed before the first load


def check_usage(serve: ServeOptions, drafts: Sequence[str], others: Sequence[str]) -> None:
    """See that what was asked for can be served.

    Args:
        serve: options of serving.
        drafts: as named.
        others: options of replay that were given.

    Raises:
        UsageError: it cannot; all reasons at once.
    """
    from quark_eagle.errors import UsageError

    urls = [url for url in (serve.baseline_url, serve.candidate_url) if url is not None]
    problems = [f"{option}: belongs to replay, and --engine vllm serves. Leave it out." for option in others]
    if len(drafts) != 2:
        problems.append(f"BASELINE and CANDIDATE were needed, but {len(drafts)} draft(s) are named. Name both.")
    if len(urls) == 1:
        problems.append("--baseline-url and --candidate-url go together: give both, or neither and --target.")
    if len(urls) == 2 and len({url.rstrip("/").lower() for url in urls}) == 1:
        problems.append("--baseline-url and --candidate-url: are one server, which has one draft. Give each its own.")
    if not urls and serve.target is None:
        problems.append("--target TARGET: was needed, to start servers; or both of --baseline-url and --candidate-url.")
    if urls:
        problems += [
            f"{option}: is for servers that are started, but two were given."
            for option in serve.given
            if option in STARTING
        ]
    if serve.one_at_a_time and serve.devices is not None:
        problems.append("--one-at-a-time and --devices: contradict each other. Give one of them.")
    if serve.deterministic and serve.concurrency not in (None, 1):
        problems.append("--deterministic asks one request at a time: leave --concurrency out.")
    if problems:
        raise UsageError("\n".join(problems))


def compare_served(
    drafts: Sequence[str], serve: ServeOptions, num_speculative_tokens: int | None, dtype: str, *, json_: bool
) -> ParityReport:
    """Serve both drafts and count."""
    from quark_eagle.checkpoint.source import resolve
    from quark_eagle.cli import render
    from quark_eagle.opening import open_served

    baseline, candidate = map(resolve, drafts)
    comparison = open_served((baseline, candidate), serve, num_speculative_tokens=num_speculative_tokens, dtype=dtype)
    announce_served(comparison)
    return comparison.run(command_line=sys.argv, progress=render.progress(quiet=json_), on_turn=announce_turn)


def announce_served(comparison: ServedComparison) -> None:
    """Say on stderr what a served measurement will take, before it starts."""
    from quark_eagle.cli import render

    plan, prompts = comparison.schedule, comparison.prompts
    loads = f"{plan.num_loads} loads of the target" if comparison.arms is not None else "Servers that run already"
    if comparison.target_bytes is not None:
        seconds = render.duration(comparison.target_bytes / DISK_BYTES_PER_SECOND)
        loads += f" ({render.size(comparison.target_bytes)} each: {seconds} from a disk of 1 GB/s)"
    render.note(
        f"{loads}, {plan.layout}; {len(prompts)} prompts in {plan.num_blocks} blocks of both arms: "
        f"{comparison.num_requests} answers of up to {comparison.driving.sampling.max_tokens} tokens, "
        f"{comparison.driving.concurrency} at a time.\nOrder: {', '.join(plan.order)}. The first pass tells how long."
    )


def announce_turn(done: PassResult, seconds_left: float) -> None:
    """Say on stderr that a pass is done, and how long the rest will take."""
    from quark_eagle.cli import render

    left = f"; about {render.duration(seconds_left)} left" if seconds_left else ""
    render.note(f"{done.turn.arm}, block {done.turn.block + 1}: {render.duration(done.seconds)}{left}")
