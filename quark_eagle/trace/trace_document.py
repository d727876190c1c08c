"""TraceDocument: ``trace.json``, version 1, as values. It holds no time and no date: equal runs, equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from quark_eagle.errors import StorageError, TraceError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetId:
    """Which target: two traces of equal ids are of the same model in the same arithmetic.

    Attributes:
        name: as it was asked for: a directory or a Hugging Face id.
        revision: the commit on the hub, if it came from there.
        config_sha256: of ``config.json``.
        weights_sha256: of the names and contents of the weight files; None above `HASHED_BYTES`.
        num_hidden_layers: of the target.
        hidden_size: of its residual stream.
        vocab_size: of its output.
        aux_layer_ids: ascending; id i is the residual stream after i layers.
        dtype: it computed in.
        engine: that ran it, with its version.
        device: it ran on.
        sliding_window: that its engine lends to a draft that names none (`trace.lent_window`); None if it lends none,
            and in a trace from before this was kept.
    """

    name: str
    revision: str | None
    config_sha256: str
    weights_sha256: str | None
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    aux_layer_ids: tuple[int, ...]
    dtype: str
    engine: str
    device: str
    sliding_window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How each token was chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: of the distribution at that temperature; 1 keeps all of it.
        seed: each prompt draws from a generator of its own, seeded with this and the prompt's hash.
        max_tokens: generated at most, the end token included.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 128

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the argmax."""
        return self.temperature == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesId:
    """What the rows of ``states`` are.

    Attributes:
        dtype: bfloat16 or float32.
        width: numbers per row.
        projection: hash of the ``fc`` (and norms before it) that made them; None if they are the target's own.
    """

    dtype: str
    width: int
    projection: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPromptInfo:
    """One prompt of a trace: who it is and where it lies.

    Attributes:
        id: of the prompt.
        category: of the prompt.
        split: of the prompt.
        sha256: of its messages.
        num_tokens: n, prompt and answer.
        prompt_length: p, tokens before generation starts.
        stop_reason: "stop" (the target ended its answer) or "length" (max_tokens).
        shard: file that holds it.
        first_token: its first element of ``token_ids`` in the shard.
        first_generated: its first element of ``log_probs`` and ``top2_margin``.
        first_row: its first row of ``states``.
    """

    id: str
    category: str
    split: str
    sha256: str
    num_tokens: int
    prompt_length: int
    stop_reason: str
    shard: str
    first_token: int
    first_generated: int
    first_row: int

    @property
    def num_generated(self) -> int:
        """Tokens of the answer, n - p."""
        return self.num_tokens - self.prompt_length


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One file of a trace."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDocument:
    """All of ``trace.json``.

    Attributes:
        row_names: tensors in ``rows.safetensors``; empty if there is none.
        sha256: of the file's bytes; not part of it.
    """

    target: TargetId
    sampling: Sampling
    states: StatesId
    prompts: tuple[TracedPromptInfo, ...]
    prompts_sha256: str
    shards: tuple[ShardInfo, ...]
    row_names: tuple[str, ...]
    provenance: Mapping[str, Any]
    sha256: str = field(default="", compare=False)

    def to_bytes(self) -> bytes:
        """The file's content."""
        content = asdict(self)
        del content["sha256"]
        return (json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> TraceDocument:
        """The document in a file.

        Raises:
            TraceError: it is damaged, or of a version that is not known here.
            StorageError: it may not be read.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
        try:
            content = json.loads(data)
            version = content.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise TraceError(
                    f"{path}: has schema_version {version}, but this version reads {SCHEMA_VERSION}. "
                    "Use the version of quark-eagle that wrote it, or record the trace anew."
                )
            return cls(
                target=_value(TargetId, content["target"]),
                sampling=_value(Sampling, content["sampling"]),
                states=_value(StatesId, content["states"]),
                prompts=tuple(_value(TracedPromptInfo, prompt) for prompt in content["prompts"]),
                prompts_sha256=content["prompts_sha256"],
                shards=tuple(_value(ShardInfo, shard) for shard in content["shards"]),
                row_names=tuple(content["row_names"]),
                provenance=content["provenance"],
                sha256=hashlib.sha256(data).hexdigest(),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"{path}: is damaged ({type(error).__name__}: {error}). Record the trace anew.") from error


_T = TypeVar("_T")


def _value(kind: Callable[..., _T], content: Mapping[str, Any]) -> _T:
    """A dataclass from a JSON object; lists become tuples.

    Raises:
        TypeError: a field is missing or unknown.
    """
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})
