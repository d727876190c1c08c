"""What a target is, from its config and the bytes of its files, before its weights are loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quark_eagle.checkpoint.source import resolve
from quark_eagle.errors import TraceError, UsageError, findings
from quark_eagle.trace.trace_document import TargetId

HASHED_BYTES = 16 << 30  # weights above this are identified by config and revision alone: hashing them takes minutes
# Where a multimodal target keeps the config of the model that generates text: Kimi-K2.5 and most others in the first.
_NESTED = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetGeometry:
    """The shape of the part of a target that generates text.

    Attributes:
        num_hidden_layers: of its decoder.
        hidden_size: of its residual stream.
        vocab_size: of its output.
        max_length: positions that it was made for; None if it does not say.
        ties_head: whether its output layer is its embedding.
        lent_window: see `trace.lent_window`; None where nobody has asked yet.
    """

    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    max_length: int | None = None
    ties_head: bool = False
    lent_window: int | None = None

    @classmethod
    def read(cls, directory: Path) -> TargetGeometry:
        """From ``config.json`` alone: a target whose config is Python code of its own is described without running it.

        Raises:
            TraceError: there is no such file, or it lacks a number; nothing is guessed.
        """
        path = directory / "config.json"
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
            config = text_config(whole)
        except (OSError, ValueError, AttributeError) as error:
            raise TraceError(
                f"{path}: could not be read ({error}), but it says what the target is. Point at a target's directory."
            ) from error
        names = ("num_hidden_layers", "hidden_size", "vocab_size")
        missing = [f"{name} is missing." for name in names if not isinstance(config.get(name), int)]
        if missing:
            raise TraceError(findings(str(path), missing, "It is needed to see that the draft fits the target."))
        # transformers 5 writes a nested config's ties at the top.
        ties = config.get("tie_word_embeddings", whole.get("tie_word_embeddings", False))
        return cls(
            **{name: config[name] for name in names},
            max_length=config.get("max_position_embeddings"),
            ties_head=bool(ties),
        )


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a target's config that is about generating text.

    >>> text_config({"model_type": "kimi_k25", "text_config": {"hidden_size": 7168}})["hidden_size"]
    7168
    """
    for name in _NESTED:
        nested = config.get(name)
        if isinstance(nested, Mapping) and "hidden_size" in nested:
            return nested
    return config


def identify_as(
    directory: Path,
    name: str,
    geometry: TargetGeometry,
    aux_layer_ids: Callable[[int], Sequence[int]],
    *,
    dtype: str,
    engine: str,
    device: str,
) -> TargetId:
    """The target's identity.

    Args:
        directory: where it lies.
        name: as the user named it.
        geometry: of the part that generates text.
        aux_layer_ids: the ids to tap, given the number of layers.
        dtype: to compute in.
        engine: that runs it, with its version.
        device: to run on.

    Raises:
        TraceError: a layer to tap is not there.
    """
    layers = geometry.num_hidden_layers
    ids = tuple(sorted(aux_layer_ids(layers)))
    if not ids or ids[0] < 0 or ids[-1] > layers or len(set(ids)) < len(ids):
        raise TraceError(
            f"{name}: has {layers} layers, but the draft reads the states after layers {list(ids)}. "
            "Give the target that the draft was trained for, or name other layers in eagle_aux_hidden_state_layer_ids."
        )
    revision = re.search(r"/snapshots/([0-9a-f]{40})$", str(directory))
    return TargetId(
        name=name,
        revision=revision.group(1) if revision else None,
        config_sha256=hashlib.sha256((directory / "config.json").read_bytes()).hexdigest(),
        weights_sha256=_weights_sha256(directory),
        num_hidden_layers=layers,
        hidden_size=geometry.hidden_size,
        vocab_size=geometry.vocab_size,
        aux_layer_ids=ids,
        dtype=dtype,
        engine=engine,
        device=device,
        sliding_window=geometry.lent_window,
    )


def _weights_sha256(directory: Path) -> str | None:
    files = sorted(path for path in directory.glob("*.safetensors") if path.is_file())
    if sum(path.stat().st_size for path in files) > HASHED_BYTES:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(json.dumps([path.name, hashlib.file_digest(file, "sha256").hexdigest()]).encode())
    return digest.hexdigest()


def resolve_target(target: str | Path, *, trust_remote_code: bool) -> Path:
    """The target's directory. From the hub without Python code, unless that is trusted.

    Raises:
        UsageError: it is neither on the disk nor an id.
        TraceError: it is a file.
        CheckpointError: it cannot be fetched.
    """
    if Path(target).expanduser().is_dir():
        return Path(target).expanduser()
    try:
        directory = resolve(target, python_too=trust_remote_code)
    except UsageError:
        raise UsageError(
            f"{target}: not found, but a target is a local directory or a Hugging Face id (owner/name). Check the path."
        ) from None
    if not directory.is_dir():
        raise TraceError(f"{target}: is a file, but a target is a directory with config.json, weights and tokenizer.")
    return directory
