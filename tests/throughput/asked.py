"""A workload, runs of it, and an engine whose vLLM is a stand-in: what the throughput tests ask and are answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quark_eagle.documents.throughput import (
    Acceptance,
    ArmName,
    Latency,
    ThroughputArm,
    ThroughputProvenance,
    ThroughputReport,
    ThroughputRun,
    Workload,
)
from quark_eagle.errors import EngineError
from quark_eagle.serving.command import ServeCommand
from quark_eagle.throughput.plan import Job, benchmark_flags
from quark_eagle.throughput.summary import DraftTimes, cells

RECORDED = Path(__file__).parent / "recorded" / "vllm-0.32-eagle3.json"
"""What vLLM 0.32's module wrote of 20 prompts of a tiny target on a CPU, 2 at a time, a random draft proposing 3."""
RECORDED_WORKLOAD = Workload(
    input_tokens=32, output_tokens=24, concurrency=[2], warmups_per_stream=2, chat_template=False, seed=1, repeats=1
)

# In place of vLLM: a module that writes what it is told to in FAKE_RESULT, or does what FAKE_FAULT says.
_STAND_IN = """
import json, os, sys, time
from pathlib import Path

def add_cli_args(parser):
    for flag in {flags!r}:
        parser.add_argument(flag)
    for flag in ("--save-result", "--disable-tqdm", "--trust-remote-code"):
        parser.add_argument(flag, action="store_true")

def main(args):
    fault = os.environ.get("FAKE_FAULT")
    if fault == "dies":
        sys.exit("the stand-in gives up")
    if fault == "hangs":
        time.sleep(600)
    said = json.loads(os.environ["FAKE_RESULT"])
    said.setdefault("completed", int(args.num_prompts))
    said.setdefault("total_output_tokens", int(args.num_prompts) * int(args.random_output_len))
    said["max_concurrency"] = int(args.max_concurrency)
    Path(args.result_dir, args.result_filename).write_text(json.dumps(said))
"""


def command(draft: str | None = "drafts/bf16", **changes: object) -> ServeCommand:
    """How a target is served, k = 3 with a draft."""
    settings: dict[str, object] = {
        "target": "targets/tiny",
        "draft": draft,
        "num_speculative_tokens": None if draft is None else 3,
        "options": {"--max-model-len": 4096},
    }
    return ServeCommand(**(settings | changes))  # type: ignore[arg-type]


def run(
    arm: ArmName = "none",
    concurrency: int = 4,
    repeat: int = 0,
    *,
    tpot_ms: float = 20.0,
    output_rate: float = 100.0,
    accepted: int = 0,
) -> ThroughputRun:
    """One run: of 10 s, and of 1000 drafts if it is a draft's."""
    drafts = Acceptance(
        num_drafts=1000,
        num_draft_tokens=3000,
        num_accepted_tokens=accepted,
        num_accepted_tokens_per_position=[accepted],
    )
    return ThroughputRun(
        arm=arm,
        concurrency=concurrency,
        repeat=repeat,
        visit=0,
        seed=repeat,
        duration_seconds=10.0,
        num_requests=40,
        num_failed=0,
        num_input_tokens=1000,
        num_output_tokens=round(10 * output_rate),
        ttft_ms=Latency(mean=50.0, p50=49.0, p99=99.0),
        tpot_ms=Latency(mean=tpot_ms, p50=tpot_ms, p99=tpot_ms),
        acceptance=None if arm == "none" else drafts,
    )


def write_stand_in(directory: Path) -> Path:
    """A directory to be put on PYTHONPATH, in which vLLM is the stand-in."""
    package = directory / "vllm" / "benchmarks"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    asked = benchmark_flags(command(), "url", RECORDED_WORKLOAD, Job(concurrency=2, repeat=0), Path("run.json"))
    flags = [word for word in asked if word.startswith("--") and word not in ("--save-result", "--disable-tqdm")]
    (package / "serve.py").write_text(_STAND_IN.format(flags=flags))
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class NoServer:
    """In place of a server: asked by nobody, alive as long as it is said to be."""

    command: ServeCommand
    is_dead: bool = False
    url: str = "http://127.0.0.1:9"
    ready_seconds: float = 1.5

    def check_alive(self) -> None:
        if self.is_dead:
            raise EngineError(f"{self.url}: the server ended with 137 while it was in use")


def sweep_report() -> ThroughputReport:
    """A report of three arms at one concurrency, two repeats, made up but for its arithmetic."""
    rates: dict[ArmName, float] = {"none": 100.0, "baseline": 180.0, "candidate": 190.0}
    runs = [
        run(arm, repeat=repeat, output_rate=rate + repeat, tpot_ms=2000 / rate, accepted=0 if arm == "none" else 1200)
        for arm, rate in rates.items()
        for repeat in range(2)
    ]
    return ThroughputReport(
        schema_version=1,
        target="targets/tiny",
        workload=Workload(concurrency=[4], repeats=2),
        arms=[
            ThroughputArm(
                name=arm,
                draft=None if arm == "none" else f"drafts/{arm}",
                num_speculative_tokens=None if arm == "none" else 3,
                serve_command=command().to_json(),
                load_seconds=[20.0],
            )
            for arm in rates
        ],
        caveat="Its speeds mean nothing.",
        cells=cells(runs, 0, 0.9, 3, DraftTimes(candidate_share=0.8)),
        published=None,
        provenance=ThroughputProvenance(
            created="2026-01-01T00:00:00+00:00",
            command_line=["quark-eagle", "throughput"],
            versions={"quark_eagle": "0"},
            engine={"vllm": "0.32.0", "arch": "x86_64 AVX2"},
            num_gpus=0,
            seconds=60.0,
            logs="throughput.json.logs",
        ),
        runs=runs,
    )
