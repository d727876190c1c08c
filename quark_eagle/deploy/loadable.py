"""Whether an engine loads a draft as it is meant, foretold from its headers: `verify` without reading a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.engine_config import EngineConfig
from quark_eagle.deploy.findings import Finding, errors
from quark_eagle.deploy.loading import load
from quark_eagle.deploy.quantization import quantization_of
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
        config = EngineConfig.of(checkpoint.config, rules)
        found: list[Finding] = errors("config.json", (*config.problems, *config.unread))
        if not config.problems:
            try:
                quantization = quantization_of(checkpoint, rules)
            except VerificationError as error:
                return cls(engine=rules.name, reasons=(str(error),), stops=False)
            loading = load(checkpoint, config, quantization, rules, None)
            found += [finding for finding in loading.findings if finding.severity == "error"]
            found += [finding for module in loading.modules for finding in errors(module.name, module.problems)]
        found = list(dict.fromkeys(found))
        return cls(
            engine=rules.name,
            reasons=tuple(f"{finding.subject} {finding.message}" for finding in found),
            stops=any(finding.stops for finding in found),
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"engine": self.engine, "ok": not self.reasons, "stops": self.stops, "reasons": list(self.reasons)}
