"""record(): run the target once over the prompts and keep what it did.

prompts → tokens → batches of like length → answers with states → shards → rows → trace.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.progress import SILENT, Progress
from quark_eagle.trace.assembly import assemble
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import Estimate, RecordOptions
from quark_eagle.trace.session import Session
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_writer import TraceWriter, refuse_existing


def record(
    target: str | Path,
    draft: Checkpoint,
    prompts: PromptSet,
    output: Path,
    options: RecordOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    announce: Callable[[Estimate], None] = lambda estimate: None,
    command_line: Sequence[str] = (),
) -> TargetTrace:
    """Record what the target does with the prompts; an interrupted recording of the same kind is continued.

    Args:
        target: a local directory or a Hugging Face id.
        draft: for whom: its config names the aux layers, and what it lacks is borrowed from the target.
        prompts: to be answered.
        output: directory of the trace.
        options: sampling, arithmetic, what to store; greedy, 128 tokens and bfloat16 states if None.
        overwrite: a finished trace may be replaced; it stays until the new one is whole.
        progress: told of generated tokens.
        announce: told once, before the long part, what it will take.
        command_line: for the provenance.

    Raises:
        UsageError: options that contradict each other, or an output that exists.
        TraceMismatchError: the target does not fit the draft.
        TraceError: the target cannot be loaded, refuses a prompt, or its states are worthless.
        EngineError: vLLM could not be started, or died; what is recorded is kept.
        StorageError: the disk has too little space, or it became full; what is recorded is kept.
    """
    options = options or RecordOptions()
    options.check()
    refuse_existing(output, overwrite=overwrite)
    layout = Eagle3Layout.of(draft)
    with Session.open(target, draft, layout, prompts, options, output, progress) as session:
        _record(session, output, overwrite, progress, announce, command_line)
    return TargetTrace.open(output)


def _record(
    session: Session,
    output: Path,
    overwrite: bool,
    progress: Progress,
    announce: Callable[[Estimate], None],
    command_line: Sequence[str],
) -> None:
    """Answer every batch that no earlier run has, and finish the trace."""
    with TraceWriter.begin(output, session.plan(), len(session.batches), overwrite=overwrite) as writer:
        waiting = [number for number in range(len(session.batches)) if not writer.has(number)]
        size_bytes = session.size_bytes(waiting)
        writer.require_space(size_bytes)
        announce(session.estimate(waiting, size_bytes))
        max_tokens = session.options.sampling.max_tokens
        with progress.task("record", sum(len(session.batches[n]) for n in waiting) * max_tokens, "token") as task:
            for number in waiting:
                session.record_batch(number, writer, task.advance)
        writer.finish(assemble(session, writer, command_line))
