"""ServedRounds: what a draft got accepted that was served while a trace was recorded, kept in the shards' headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.errors import TraceError
from quark_eagle.trace.trace_document import TraceDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRounds:
    """The rounds of one draft along the trace's path.

    Attributes:
        num_speculative_tokens: k.
        draft_weights_sha256: of the draft.
        rounds: by prompt id, the draft tokens that each round accepted, the last one cut at the answer's end; None
            where the engine left the draft out of a step, so that its rounds cannot be told.
    """

    num_speculative_tokens: int
    draft_weights_sha256: str
    rounds: Mapping[str, tuple[int, ...] | None]

    @classmethod
    def of(cls, directory: Path, document: TraceDocument) -> ServedRounds | None:
        """Those of a trace; None if no draft was served.

        Raises:
            TraceError: they do not fit the trace's prompts.
        """
        served = document.provenance.get("served")
        if served is None:
            return None
        rounds: dict[str, tuple[int, ...] | None] = {}
        for shard in document.shards:
            infos = [info for info in document.prompts if info.shard == shard.file]
            if not infos:
                continue
            found = _rounds_in(directory / shard.file)
            # As the shard holds them, which is the order of their first tokens.
            infos.sort(key=lambda info: info.first_token)
            if len(found) != len(infos):
                raise TraceError(
                    f"{directory / shard.file}: holds the served rounds of {len(found)} prompts, but has {len(infos)}. "
                    "Record the trace anew."
                )
            for info, accepted in zip(infos, found, strict=True):
                rounds[info.id] = None if accepted is None else tuple(accepted)
                if accepted is not None and sum(accepted) + len(accepted) != info.num_generated - 1:
                    raise TraceError(
                        f"{directory / shard.file}: the served rounds of prompt {info.id} emit "
                        f"{sum(accepted) + len(accepted)} tokens, but its answer has {info.num_generated - 1} after "
                        "the first. Record the trace anew."
                    )
        return cls(
            num_speculative_tokens=served["num_speculative_tokens"],
            draft_weights_sha256=served["draft_weights_sha256"],
            rounds=rounds,
        )


def _rounds_in(path: Path) -> list[list[int] | None]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found: list[list[int] | None] = json.loads(file.metadata()["trace"]).get("served_rounds", [])
    return found
