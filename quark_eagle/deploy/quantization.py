"""A checkpoint's ``quantization_config``, read by the rules of its format; what no rule covers is said to be so."""

from __future__ import annotations

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.answers import Quantization
from quark_eagle.deploy.compressed_tensors_config import METHOD as COMPRESSED_TENSORS
from quark_eagle.deploy.compressed_tensors_config import CompressedTensorsConfig
from quark_eagle.deploy.quark_config import QuarkConfig
from quark_eagle.deploy.rules import EngineRules
from quark_eagle.errors import VerificationError, findings

QUARK = "quark"
_NOTHING = "Nothing can be said about this checkpoint"


def quantization_of(checkpoint: Checkpoint, rules: EngineRules) -> Quantization | None:
    """The config as the engine reads it; None if it takes the draft for unquantized.

    Raises:
        VerificationError: it is of another format, or asks for what the rules do not cover.
    """
    where = f"{checkpoint.directory}/config.json"
    raw = checkpoint.quantization_config
    if raw is None:
        _refuse_other_places(checkpoint)
        return None
    method = method_of(raw)
    if not method:
        return None
    if method == QUARK:
        return QuarkConfig.of(raw, rules)
    if method != COMPRESSED_TENSORS:
        raise VerificationError(
            f"{where}: its quant_method is {method!r}, but only {QUARK!r} and {COMPRESSED_TENSORS!r} are known here. "
            f"{_NOTHING}. Quantize the BF16 draft with `quark-eagle quantize`."
        )
    config = CompressedTensorsConfig.of(raw, rules)
    if config.uncovered:
        advice = f"{_NOTHING}. `quark-eagle parity --engine vllm` measures what it accepts where it is served."
        raise VerificationError(findings(where, [f"{each}." for each in config.uncovered], advice))
    return config


def method_of(quantization: object) -> str:
    """``quant_method`` as vLLM spells it (``transformers_utils/model_arch_config_convertor.py``); empty without one.

    >>> method_of({"quant_method": "Compressed_Tensors"})
    'compressed-tensors'
    """
    named = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return str(named or "").lower().replace("compressed_tensors", COMPRESSED_TENSORS)


def _refuse_other_places(checkpoint: Checkpoint) -> None:
    """Where vLLM looks for a config that is not in config.json under its usual key."""
    if (checkpoint.directory / "hf_quant_config.json").is_file():
        place = f"{checkpoint.directory}/hf_quant_config.json"
    elif checkpoint.config.get("compression_config") is not None:
        place = f"{checkpoint.directory}/config.json: its compression_config"
    else:
        return
    raise VerificationError(
        f"{place}: is what vLLM reads where config.json has no quantization_config, but only that is read here. "
        f"{_NOTHING}."
    )
