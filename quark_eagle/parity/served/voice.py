"""Voice: a server that speaks for an arm, and whether it may.

What it accepts tells something of a draft if it speculates with that very draft, if nothing else is set otherwise than
at the other arm's server, and if no setting makes acceptance up. None of it is taken on trust: our own server is asked
what it was really started with, since flags may reach it by ways that nobody foresaw, and a given one has to tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quark_eagle.checkpoint.manifest import sha256_of_weights
from quark_eagle.checkpoint.reader import CONFIG_NAME, Checkpoint
from quark_eagle.documents.served import ServedArmName
from quark_eagle.errors import CheckpointError
from quark_eagle.parity.side import Side
from quark_eagle.serving.server import VllmServer
from quark_eagle.serving.server_facts import ServerFacts

_TOLD = ("draft", "rejection_sample_method", "prefix_caching")  # without which acceptance may be anybody's


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A server that speaks for an arm.

    Attributes:
        draft: that the arm is named for; None of the arm without speculation.
        server: of our own; None where it was given by its address.
        devices: that it has to itself; None is all there are.
        facts: what it is really set to.
        streams: whether answers are read piece by piece, because the server does not say what its rounds accepted.
    """

    arm: ServedArmName
    url: str
    model: str
    facts: ServerFacts
    draft: Side | None = None
    server: VllmServer | None = None
    devices: str | None = None
    streams: bool = False

    @property
    def is_tied(self) -> bool:
        """Whether its draft was seen to be the arm's: not where it was given and its draft is on another machine."""
        return self.server is not None or (self.facts.draft is not None and Path(self.facts.draft).is_dir())


def reasons_against(voice: Voice, others: Sequence[Voice], num_speculative_tokens: int) -> list[str]:
    """Why what a server accepts may not be counted for its arm, or not be compared with the others'; empty if it may.

    Args:
        voice: of the server.
        others: that spoke before it.
        num_speculative_tokens: k that was wanted.
    """
    facts = voice.facts
    # The candidate's casts are what an engine makes of its files: that is measured. A target may be cast to bfloat16.
    casts = () if voice.arm == "candidate" else tuple(cast for cast in facts.casts or () if "float8" in cast)
    found = list(replace(facts, casts=casts).objections())
    found += _not_told(voice) if voice.server is None else _not_as_started(voice, voice.server)
    found += _not_the_named_draft(voice)
    if voice.arm != "none" and facts.num_speculative_tokens not in (None, num_speculative_tokens):
        found.append(f"k: wanted {num_speculative_tokens}, found {facts.num_speculative_tokens}")
    for other in others:
        if "none" not in (voice.arm, other.arm):  # speculation itself may choose other graphs
            found += [f"{voice.arm} and {other.arm}, {it}" for it in facts.differences(other.facts)]
            found += _one_draft_for_two(voice, other)
        if other.model != voice.model:
            found.append(f"{voice.arm} serves {voice.model}, but {other.arm} {other.model}")
    return found


def _not_told(voice: Voice) -> list[str]:
    missing = [name for name in _TOLD if name in voice.facts.unknown]
    if not missing:
        return []
    return [
        f"it does not tell its {', '.join(missing)}. Start it with VLLM_SERVER_DEV_MODE=1 in its environment, where "
        "nobody else can reach it: it then answers /server_info"
    ]


def _not_as_started(voice: Voice, server: VllmServer) -> list[str]:
    """Where a server of our own speculates with something else than it was told, or says nothing of it."""
    wanted, found = server.command.draft, voice.facts.draft
    if _path(wanted) == _path(found):
        return []
    return [f"it was started with {wanted or 'no draft'}, but its log says {found or 'nothing of a draft'}"]


def _not_the_named_draft(voice: Voice) -> list[str]:
    """Where a given server's draft lies on this machine, and is not the arm's."""
    if voice.server is not None or voice.draft is None or not voice.is_tied:
        return []
    directory = Path(str(voice.facts.draft))
    try:
        same = _is_same(voice.draft.checkpoint, Checkpoint.open(directory))
    except CheckpointError as error:
        return [f"its draft cannot be read: {error}"]
    named = voice.draft.checkpoint.directory
    return [] if same else [f"its draft is {directory}, whose weights or config are not those of {named}"]


def _one_draft_for_two(voice: Voice, other: Voice) -> list[str]:
    """Where two given servers name one draft on another machine, though the arms are two drafts."""
    if voice.is_tied or voice.arm == other.arm or voice.facts.draft != other.facts.draft:
        return []
    if voice.draft is None or other.draft is None or _is_same(voice.draft.checkpoint, other.draft.checkpoint):
        return []
    return [f"{voice.arm} and {other.arm} both speculate with {voice.facts.draft}"]


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two drafts are one: by place, or by every byte of their weights and configs."""
    return one.directory.resolve() == other.directory.resolve() or _content(one) == _content(other)


def _content(draft: Checkpoint) -> tuple[str, str]:
    config = (draft.directory / CONFIG_NAME).read_bytes()
    return sha256_of_weights(draft.directory, draft.shards), hashlib.sha256(config).hexdigest()


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name).resolve()
