"""Which prompts of a trace serve another purpose than its split: calibrating, choosing and judging share none.

A draft that is calibrated or chosen on the prompts it is judged on looks better than it is. A label is a word that
anyone can write, so prompts are told by the hash of their messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quark_eagle.trace.prompts import SPLITS, PromptSet
from quark_eagle.trace.target_trace import TargetTrace
from quark_eagle.trace.trace_document import TracedPromptInfo


def of_other_splits(trace: TargetTrace, split: str, used: Iterable[tuple[TargetTrace, str]] = ()) -> list[str]:
    """A sentence for each prompt that is not of a split alone, by its label or by its hash; none if all are.

    Args:
        trace: whose prompts are looked at.
        split: the one they should be of. The packaged prompts of the others are reserved.
        used: other traces of the same command, none of whose prompts may be in this one, and what each is used for:
            "calibrated on".
    """
    reserved = {
        prompt.sha256: f"the packaged {other} prompt {prompt.id}"
        for other in SPLITS
        if other != split
        for prompt in PromptSet.load(None, other)
    }
    for other_trace, use in used:
        reserved |= {info.sha256: f"prompt {info.id} of {other_trace.directory}, {use}" for info in other_trace.prompts}
    return [*dict.fromkeys(sentence for info in trace.prompts if (sentence := _misplaced(info, split, reserved)))]


def _misplaced(info: TracedPromptInfo, split: str, reserved: Mapping[str, str]) -> str:
    """Why one prompt is not of the split alone; empty if it is."""
    why = [] if info.split == split else [f"is labelled {info.split}"]
    if info.sha256 in reserved:
        why.append(f"is {reserved[info.sha256]} (sha256 {info.sha256[:12]}…)")
    return f"{info.id}: {', and '.join(why)}." if why else ""
