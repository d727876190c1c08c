"""What a server is really set to: parity records these facts, and some of them it must refuse.

They are read from the server's own words, its log (`log_facts`) or its answers (`http_facts`). What cannot be known is
None, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Settings that acceptance or speed may depend on; None where they cannot be known.

    Attributes:
        vllm: its version.
        draft: what it speculates with, None also if it does not.
        num_speculative_tokens: k.
        rejection_sample_method: "standard", "block" or "synthetic" (acceptance made up, for benchmarks).
        draft_sample_method: "greedy" or "probabilistic".
        dtype: of the target, such as "bfloat16".
        kv_cache_dtype: "auto" follows the dtype.
        prefix_caching: whether an answer may reuse what was asked before.
        enforce_eager: no graphs.
        cudagraph_mode: as vLLM prints it: "NONE", "FULL_AND_PIECEWISE", …
        tensor_parallel_size: GPUs that share the target.
        max_model_len: tokens of the longest conversation.
        attention_backend: of the target.
        draft_attention_backend: of the draft.
        casts: warnings of weights that were loaded into parameters of another dtype: a misread FP8 draft, in its log.
    """

    vllm: str | None = None
    draft: str | None = None
    num_speculative_tokens: int | None = None
    rejection_sample_method: str | None = None
    draft_sample_method: str | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    prefix_caching: bool | None = None
    enforce_eager: bool | None = None
    cudagraph_mode: str | None = None
    tensor_parallel_size: int | None = None
    max_model_len: int | None = None
    attention_backend: str | None = None
    draft_attention_backend: str | None = None
    casts: tuple[str, ...] | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """The settings that could not be known."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is None)

    def objections(self) -> tuple[str, ...]:
        """Why acceptance measured on this server would mean nothing; empty if nothing speaks against it."""
        found = []
        if self.rejection_sample_method == "synthetic":
            found.append(
                "acceptance is synthetic (rejection_sample_method): it is made up, whatever the draft proposes"
            )
        if self.prefix_caching:
            found.append("prefix caching is on: what was asked before changes how an answer is computed")
        found += [f"a weight was cast while it was loaded: {line}" for line in self.casts or ()]
        return tuple(found)

    def differences(self, other: ServerFacts) -> tuple[str, ...]:
        """Settings that two servers do not share, where both are known; the draft itself may of course differ."""
        return tuple(
            f"{field.name}: {mine} and {theirs}"
            for field in fields(self)
            if field.name not in ("draft", "casts")
            and None not in (mine := getattr(self, field.name), theirs := getattr(other, field.name))
            and mine != theirs
        )
