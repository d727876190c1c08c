"""What hidden states must be before acceptance is measured with them: finite, not zero, not constant, of this path.

A hook on the wrong module, a target that was loaded without its weights or an overflow gives states that are not;
replay would run on them without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quark_eagle.errors import TraceError

ADVICE = (
    "A draft sees nothing in such states. Check the target's weights and the aux layer ids, then record the trace anew."
)

REGRET = 1.0  # in logits: bfloat16 and the shape of a batch move two of them by tenths at most
REGRETTED_SHARE = 0.05


def check_states(states: Tensor, num_layers: int, where: str) -> None:
    """Refuse the states of one prompt if a draft could learn nothing from them.

    Args:
        states: [rows, num_layers * width].
        num_layers: layers that lie side by side in a row.
        where: whose they are, for the message.

    Raises:
        TraceError: says which layer, which row and what it found there.
    """
    if not states.isfinite().all():
        row, column = (int(i) for i in (~states.isfinite()).nonzero()[0])
        width = states.shape[1] // num_layers
        raise TraceError(
            f"{where}: the hidden state of token {row} is {states[row, column].item()} "
            f"(aux layer {column // width + 1} of {num_layers}, column {column % width}), but finite numbers were "
            f"needed. {ADVICE}"
        )
    for number, layer in enumerate(states.chunk(num_layers, dim=-1), 1):
        constant_rows = (layer == layer[:, :1]).all(dim=-1)
        if constant_rows.any():
            row = int(constant_rows.nonzero()[0])
            value = layer[row, 0].item()
            raise TraceError(
                f"{where}: the hidden state of token {row} is {f'{value:g}' if value else 'zero'} throughout "
                f"(aux layer {number} of {num_layers}). {ADVICE}"
            )
        if len(layer) > 1 and (layer[1:] == layer[:1]).all():
            raise TraceError(
                f"{where}: all {len(layer)} tokens have the same hidden state (aux layer {number} of {num_layers}), "
                f"but states differ from token to token. {ADVICE}"
            )


def check_path(regrets: Sequence[Tensor], where: str) -> None:
    """Refuse states that were captured along another path than the one that was generated greedily.

    The tokens were generated in one pass and the states captured in another. So the logits that follow from the states
    have to have those tokens as their largest, but for ties: states of other tokens, of other positions, or of an
    engine whose two ways of reading a prompt differ, do not. Answers are judged one by one and all together: one whose
    states are another's is lost among many, and in a short one a single token is no finding.

    Args:
        regrets: of each answer [T], how far below the largest logit each generated token's lies.
        where: whose they are, for the message.

    Raises:
        TraceError: for many tokens it is far below.
    """
    for number, regret in enumerate(regrets, 1):
        _check_path(regret, f"{where}: answer {number} of {len(regrets)}", spared=1)
    _check_path(torch.cat(list(regrets)), where, spared=0)


def _check_path(regret: Tensor, where: str, spared: int) -> None:
    far = int((regret > REGRET).sum())
    if far > max(spared, REGRETTED_SHARE * len(regret)):
        raise TraceError(
            f"{where}: {far} of {len(regret)} generated tokens lie more than {REGRET:g} below the largest logit that "
            f"follows from the captured states (the farthest {regret.max().item():.3g}), but a greedy answer is the "
            "largest at every place. The states are not of the path that was generated, or the engine computes a "
            "prompt in two ways that differ. Try another attention backend (--vllm-option attention-backend=NAME) or "
            "another version of vLLM."
        )
