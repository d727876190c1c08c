"""What to serve, as a value: a target, perhaps a draft, and every flag and variable that vLLM is started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quark_eagle.errors import UsageError
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.ports import LOOPBACK
from quark_eagle.serving.refused_flags import objection

SERVER_MODULE = "vllm.entrypoints.openai.api_server"
Option = str | int | float | bool | Mapping[str, Any] | list[Any]
"""The value of a flag. True is a flag alone, False leaves it out, a mapping or a list is written as JSON."""

# Set for every server: nothing is reported to anybody, and a tokenizer does not warn that it was forked.
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand:
    """One server of vLLM.

    Attributes:
        target: directory or Hugging Face id.
        draft: directory or id; None serves without speculation.
        num_speculative_tokens: k. Needed with a draft.
        method: how the draft speculates, vLLM's name for it.
        speculative: what else goes into the speculative config, such as ``attention_backend``.
        dtype: of the target and of the draft's high-precision parameters; "auto" is the checkpoint's.
        prefix_caching: off, because an answer must not depend on what was asked before.
        per_request_metrics: ask vLLM (0.29 and later) for what every round accepted (``detailed``).
        served_model_name: what the server calls the target; None is the target's own name.
        trust_remote_code: lets vLLM run Python that the target's directory brings along.
        options: further flags as on the command line, ``{"--max-model-len": 4096, "--enforce-eager": True}``.
        environment: variables for the server alone.
    """

    target: str
    draft: str | None = None
    num_speculative_tokens: int | None = None
    method: str = "eagle3"
    speculative: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    prefix_caching: bool = False
    per_request_metrics: bool = True
    served_model_name: str | None = None
    trust_remote_code: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be served.

        Raises:
            UsageError: a draft without k or k without a draft, or an option that a field says already, or a secret.
        """
        if (self.draft is None) != (self.num_speculative_tokens is None):
            raise UsageError("A draft and its number of speculative tokens go together: give both or neither.")
        problems = [found for flag in self.options if (found := objection(flag)) is not None]
        problems += [
            f"{flag}: its value {value!r} is a flag itself"
            for flag, value in self.options.items()
            if isinstance(value, str) and value.startswith("--")
        ]
        problems += [
            f"{name} of the speculative config is a setting of its own"
            for name in self.speculative
            if name in ("method", "model", "num_speculative_tokens")
        ]
        if problems:
            raise UsageError(f"options of vLLM: {', '.join(problems)}. Such a flag cannot be passed on.")

    @property
    def model(self) -> str:
        """The name that the server answers to."""
        return self.served_model_name or self.target

    @property
    def title(self) -> str:
        """What is served, for a progress bar: ``Llama-3-8B with llama3-eagle3``, last parts of paths and ids."""
        names = [Path(name).name for name in (self.target, self.draft) if name is not None]
        return " with ".join(names)

    @property
    def speculative_config(self) -> dict[str, Any] | None:
        """What ``--speculative-config`` is given; None without a draft."""
        if self.draft is None:
            return None
        said = {"method": self.method, "model": self.draft, "num_speculative_tokens": self.num_speculative_tokens}
        return {**said, **self.speculative}

    def argv(self, engine: Engine, port: int) -> list[str]:
        """The arguments of the server's process: on the loopback interface, at a port."""
        return engine.command(SERVER_MODULE, *self.flags(), "--host", LOOPBACK, "--port", str(port))

    def flags(self) -> list[str]:
        """What `vllm serve` is told, but for where it listens.

        >>> ServeCommand(target="meta/T", options={"--max-num-seqs": 4, "--enforce-eager": True}).flags()
        ['--model', 'meta/T', '--dtype', 'auto', '--no-enable-prefix-caching', '--max-num-seqs', '4', '--enforce-eager']
        """
        written = ["--model", self.target, "--dtype", self.dtype]
        if self.served_model_name is not None:
            written += ["--served-model-name", self.served_model_name]
        written.append("--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching")
        if self.trust_remote_code:
            written.append("--trust-remote-code")
        if self.speculative_config is not None:
            written += ["--speculative-config", json.dumps(self.speculative_config)]
            if self.per_request_metrics:  # vLLM refuses the flag without speculation
                written += ["--per-request-spec-decode-metrics", "detailed"]
        for flag, value in self.options.items():
            written += _written(flag, value)
        return written

    def variables(self, engine: Engine) -> dict[str, str]:
        """What is set for the server over the environment that we run in ourselves."""
        return {**_QUIET, **engine.environment, **self.environment}

    def to_json(self) -> dict[str, Any]:
        """Every field, for a report: nothing in it is secret (`refused_flags`)."""
        return {
            "target": self.target,
            "dtype": self.dtype,
            "speculative_config": self.speculative_config,
            "prefix_caching": self.prefix_caching,
            "trust_remote_code": self.trust_remote_code,
            "options": dict(self.options),
            "environment": dict(self.environment),
        }


def _written(flag: str, value: Option) -> list[str]:
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, json.dumps(value) if isinstance(value, Mapping | list) else str(value)]
