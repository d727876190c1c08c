"""Whether an engine loads a draft as it is meant, foretold from its headers: `verify` without reading a weight.

Of the bytes only scales of one number are read, of which a fused module takes one for all its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.findings import Finding, Problem, RuntimeModule, errors
from quark_eagle.deploy.loading import load
from quark_eagle.deploy.quantization import quantization_of
from quark_eagle.deploy.rules import EngineRules
from quark_eagle.deploy.shared_scales import check_shared_scales
from quark_eagle.deploy.vllm_versions import rules_for
from quark_eagle.errors import VerificationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """What the rules of one engine foretell.

    Attributes:
        engine: whose rules, ``vllm-0.32``.
        reasons: why it will not run the draft as it is meant; empty if nothing in the headers speaks against it.
        stops: whether it refuses the draft; if not, it serves, and says nothing.
    """

    engine: str
    reasons: tuple[str, ...]
    stops: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, engine_version: str | None = None) -> Loadable:
        """Of a checkpoint, quantized or not, for any target; the version as `verify` takes it."""
        rules = rules_for(engine_version).rules
        try:
            found, _ = _foretold(checkpoint, rules, None)
        except VerificationError as error:
            return cls(engine=rules.name, reasons=(str(error),), stops=False)
        return cls(
            engine=rules.name,
            reasons=tuple(f"{finding.subject} {finding.message}" for finding in found),
            stops=any(finding.stops for finding in found),
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"engine": self.engine, "ok": not self.reasons, "stops": self.stops, "reasons": list(self.reasons)}


def misread(checkpoint: Checkpoint, num_target_layers: int, engine_version: str | None = None) -> tuple[str, ...]:
    """Modules, or tensors, of a quantized draft that an engine would not run as they are meant; none of another draft.

    Args:
        checkpoint: of the draft.
        num_target_layers: of the target that it is served with.
        engine_version: as `verify` takes it.

    Raises:
        VerificationError: it is quantized in a way that the rules do not cover, so nothing is known; or in one that
            depends on what is served beside it.
    """
    if not checkpoint.is_quantized:
        return ()
    rules = rules_for(engine_version).rules
    found, modules = _foretold(checkpoint, rules, num_target_layers)
    of_the_batch = {scheme.name for scheme in rules.schemes if scheme.dynamic and scheme.input != "per_channel"}
    batched = sorted({module.scheme for module in modules if module.scheme in of_the_batch})
    if batched and not found:
        raise VerificationError(
            f"{checkpoint.directory}: asks for {', '.join(batched)}, but replay scales activations per token or by a "
            "static scale. Those of this scheme hang on what else is in the batch or are one for each group, so "
            "what is replayed is not what is served. `quark-eagle parity --engine vllm` measures it."
        )
    return tuple(dict.fromkeys(finding.subject for finding in found))


def makes_fp8_cache(checkpoint: Checkpoint) -> bool:
    """Whether the draft's own config has its KV cache in FP8 where serving says ``auto``.

    Raises:
        VerificationError: it is quantized in a way that the rules do not cover.
    """
    rules = rules_for(None).rules
    config = EngineConfig.of(checkpoint.config, rules)
    quantization = quantization_of(checkpoint, rules) if checkpoint.is_quantized else None
    if quantization is None or "key_value_rank" in config.dimensions:  # a latent cache is not asked
        return False
    return quantization.cache_scales("model.layers.1.self_attn.attn").makes_fp8


def _foretold(
    checkpoint: Checkpoint, rules: EngineRules, num_target_layers: int | None
) -> tuple[list[Finding], tuple[RuntimeModule, ...]]:
    """What the rules have against a draft, each once, and the modules that it becomes.

    Raises:
        VerificationError: they do not cover its quantization.
    """
    config = EngineConfig.of(checkpoint.config, rules)
    found: list[Finding] = errors("config.json", (*config.problems, *config.unread))
    if config.problems:
        return found, ()
    quantization = quantization_of(checkpoint, rules)
    if quantization is not None:
        found += errors("config.json", [Problem(message=it, stops=True) for it in quantization.problems])
    loading = load(checkpoint, config, quantization, rules, num_target_layers)
    found += [finding for finding in loading.findings if finding.severity == "error"]
    found += [finding for module in loading.modules for finding in errors(module.name, module.problems)]
    found += check_shared_scales(checkpoint, loading.modules)
    return list(dict.fromkeys(found)), loading.modules
