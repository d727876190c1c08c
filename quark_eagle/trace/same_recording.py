"""Whether a finished trace is what a command would record: for continuing one that lacks its anchor alone."""

from __future__ import annotations

import json
from dataclasses import replace

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.record_options import RecordOptions
from quark_eagle.trace.target import described
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.vllm_start import engine_arguments


def is_recording_of(
    trace: TargetTrace, target: str, draft: Checkpoint, prompts: PromptSet, options: RecordOptions
) -> bool:
    """Whether this very trace would come of recording a target in vLLM, with a draft that is served along.

    What costs nothing is compared first. Only then the target's files are hashed and vLLM is asked for its version.

    Args:
        trace: finished.
        target: as it is named.
        draft: that would be served along.
        prompts: to be answered.
        options: how; with vLLM.

    Raises:
        QuarkEagleError: target or engine cannot be described.
    """
    if (trace.target.name, trace.sampling, trace.document.prompts_sha256) != (target, options.sampling, prompts.sha256):
        return False
    if (trace.states.dtype, trace.states.projection is not None) != (options.state_dtype, options.project):
        return False
    if trace.served is None or trace.served.draft_weights_sha256 != sha256_of_weights(draft.directory, draft.shards):
        return False
    found = described(target, draft, Eagle3Layout.of(draft), prompts, options)
    # vLLM says when it has started which dtype it computes in, and which window it lends.
    dtype = trace.target.dtype if found.id.dtype == "auto" else found.id.dtype
    described_id = replace(found.id, dtype=dtype, sliding_window=trace.target.sliding_window)
    arguments = json.loads(json.dumps(engine_arguments(found, prompts, options)))
    return (
        described_id == trace.target
        and found.num_speculative_tokens == trace.served.num_speculative_tokens
        and arguments == trace.document.provenance.get("engine_arguments")
    )
