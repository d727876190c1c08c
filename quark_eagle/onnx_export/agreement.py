"""Agreement: how far what onnxruntime computes is from what `quark_eagle.model` computes, over the same tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LOGIT_BOUND = 1e-3
"""How far a logit may be off, in standard deviations of its row's logits: some 1e-5 is what the order of sums makes."""

TIE = 1e-5
"""An activation may become either FP8 number if it lies between them, up to this part of its token's largest one.

Both roads compute in float32 and sum in different orders. A number that lies just between two FP8 numbers then goes
one way here and the other there, and moves by up to 1/8: on the shipped draft a logit by up to 0.6 standard deviations,
for what follows goes other ways too. So the draft is computed with the graph's choice wherever both are as near.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a check found.

    Attributes:
        num_prompts: that were replayed.
        num_speculative_tokens: steps of every chain.
        num_proposals: logits' rows that were compared: one for each step of each chain.
        num_equal: rows whose token both propose.
        num_tied_tokens: other rows whose two best tokens are, to the draft, closer than twice the bound.
        num_quantized: activations that became FP8 numbers.
        num_ties: of these, where the draft was computed with the graph's choice, see `TIE`.
        max_difference: the largest difference of two logits, in standard deviations of the row's logits; null if one
            of them is not finite.
        bound: what it may be at most.
        has_combine: whether ``combine`` was run too; a projected trace has no aux states for it.
    """

    num_prompts: int
    num_speculative_tokens: int
    num_proposals: int
    num_equal: int
    num_tied_tokens: int
    num_quantized: int
    num_ties: int
    max_difference: float | None
    bound: float
    has_combine: bool

    @property
    def ok(self) -> bool:
        """Whether every token is the same, ties apart, and every logit within the bound."""
        is_close = self.max_difference is not None and self.max_difference <= self.bound
        return is_close and 0 < self.num_proposals == self.num_equal + self.num_tied_tokens

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"ok": self.ok, **asdict(self)}
