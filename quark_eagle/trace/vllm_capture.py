"""Capture: the target's aux hidden states along a known path, taken where vLLM hands them to a draft.

A *worker extension*: vLLM mixes this class into its workers (``--worker-extension-cls``), and `collective_rpc` calls
its methods on all of them. So this file runs in the Python that has vLLM, on every tensor-parallel rank, and imports
nothing of quark_eagle.

vLLM has a way of its own, the speculative method ``extract_hidden_states`` with a KV connector. It writes the states
into the pages of a KV cache and reads them back by page number, and has stored zeros and garbage where a model's pages
are not all of one size (vLLM #46301); of a target that is MLA throughout, as Kimi's and DeepSeek's are, it cannot keep
its pages apart at all (0.32, `example_hidden_states_connector.py`: "MLA verifiers are unsupported"). Here nothing goes
through a cache. The model is told which layers to hand out by the method with which vLLM itself tells it for an Eagle3
draft (``set_aux_hidden_state_layers``, `v1/worker/gpu_model_runner.py`), so id i means here what it means there; its
forward pass then returns (hidden states, aux states), and a hook keeps them. Rows are told apart by what the model was
given, positions and token ids, and every one is compared with the path that was asked for: one request is read at a
time, and rows that are not its next ones (padding) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LOGIT_ROWS = 64  # of the whole vocabulary at a time: 64 rows of 163,840 in float32 are 42 MB


class StateCapture:
    """Methods that every worker gets; their names say whose they are, as they lie among vLLM's own."""

    def quark_eagle_begin(self, layers: list[int], token_ids: list[int]) -> None:
        """Capture what the next request makes of these tokens, which it must be given from the first on."""
        model = self.get_model()  # type: ignore[attr-defined]
        if not hasattr(model, "set_aux_hidden_state_layers"):
            raise RuntimeError(f"{type(model).__name__} has no set_aux_hidden_state_layers: it feeds no Eagle3 draft")
        self._quark_eagle = _Path(model, token_ids)
        if not self._quark_eagle_speculates():
            model.set_aux_hidden_state_layers(tuple(layers))
        self._quark_eagle_hook = model.register_forward_hook(self._quark_eagle_take, with_kwargs=True)

    def quark_eagle_end(
        self, path: str, answer: list[int], state_dtype: str, temperature: float, top_p: float
    ) -> int | None:
        """Write what was captured, with how likely the answer was; rank 0 alone does, and returns the number of rows.

        Args:
            path: of the safetensors file.
            answer: the generated tokens; the last of them was not among the tokens captured.
            state_dtype: to store the states in.
            temperature: that the answer was drawn at; 0 if it was greedy.
            top_p: that it was drawn with.
        """
        self._quark_eagle_hook.remove()
        if not self._quark_eagle_speculates():
            self.get_model().set_aux_hidden_state_layers(())  # type: ignore[attr-defined]
        from safetensors.torch import save_file
        from vllm.distributed import get_tensor_model_parallel_rank

        seen = self._quark_eagle.finish()
        # On all ranks: with tensor parallelism each of them holds a part of the head.
        scores = seen.scores(answer, temperature, top_p)
        if get_tensor_model_parallel_rank() != 0:
            return None
        assert scores is not None
        states = torch.cat(seen.states)
        save_file({"states": states.to(getattr(torch, state_dtype)), **scores}, path)
        return len(states)

    def _quark_eagle_speculates(self) -> bool:
        """Whether vLLM itself has asked the model for the states, to feed a draft with them."""
        return self.vllm_config.speculative_config is not None  # type: ignore[attr-defined]

    def _quark_eagle_take(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        hidden, aux = output
        self._quark_eagle.take(kwargs.get("input_ids"), kwargs["positions"], hidden, aux)
        # A runner that did not ask for the states expects the hidden states alone.
        return output if self._quark_eagle_speculates() else hidden


class _Path:
    """The rows of one request, as chunk after chunk of it is read."""

    def __init__(self, model: Any, token_ids: Sequence[int]) -> None:
        self.model, self.token_ids = model, torch.tensor(token_ids)
        self.states: list[Tensor] = []  # [rows, num_aux * hidden] each
        self.hidden: list[Tensor] = []  # [rows, hidden] each, on the device
        self.num_rows = 0

    def take(self, input_ids: Tensor | None, positions: Tensor, hidden: Tensor, aux: Sequence[Tensor]) -> None:
        """The leading rows of a forward pass that are the path's next ones."""
        positions = (positions if positions.dim() == 1 else positions[0]).cpu()  # three rows where images have places
        wanted = self.token_ids[self.num_rows : self.num_rows + len(positions)]
        fits = positions[: len(wanted)] == torch.arange(self.num_rows, self.num_rows + len(wanted))
        if input_ids is not None:  # a multimodal target may be given embeddings instead
            fits &= input_ids[: len(wanted)].cpu() == wanted
        rows = int(fits.long().cumprod(0).sum())
        if rows:
            self.states.append(torch.cat([layer[:rows] for layer in aux], dim=-1).cpu())
            self.hidden.append(hidden[:rows])
            self.num_rows += rows

    def finish(self) -> _Path:
        """See that all rows came.

        Raises:
            RuntimeError: some did not.
        """
        if self.num_rows != len(self.token_ids):
            raise RuntimeError(
                f"the forward passes showed {self.num_rows} of the {len(self.token_ids)} tokens of a path"
            )
        return self

    @torch.inference_mode()
    def scores(self, answer: Sequence[int], temperature: float, top_p: float) -> dict[str, Tensor] | None:
        """Of each generated token; None on a rank that is not given the logits.

        Returns:
            ``log_probs`` [T] under the sampling (greedy: under softmax(logits)), ``top2_margin`` [T], and ``regret``
            [T], how far the token's logit lies below the largest: 0 where it is the argmax of these very states.
        """
        hidden = torch.cat(self.hidden)[-len(answer) :]
        found = []
        for start in range(0, len(answer), _LOGIT_ROWS):
            logits = self.model.compute_logits(hidden[start : start + _LOGIT_ROWS])
            if logits is not None:
                tokens = torch.tensor(answer[start : start + _LOGIT_ROWS], device=logits.device)
                found.append(_score(logits.float(), tokens, temperature, top_p))
        if not found:
            return None
        return {name: torch.cat([part[name] for part in found]).cpu() for name in found[0]}


def _score(logits: Tensor, tokens: Tensor, temperature: float, top_p: float) -> dict[str, Tensor]:
    """As quark_eagle.trace.sampling.choose defines them, of logits [T, vocab] and given tokens [T]."""
    top2 = logits.topk(2, dim=-1).values
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    if temperature == 0:
        log_probs = chosen - logits.logsumexp(dim=-1)
    else:
        probs = (logits / temperature).double().softmax(dim=-1)
        ordered = probs.sort(dim=-1, descending=True).values
        kept = ordered.masked_fill(ordered.cumsum(dim=-1) - ordered >= top_p, 0)
        log_probs = (probs.gather(1, tokens[:, None])[:, 0] / kept.sum(dim=-1)).log().float()
    return {"log_probs": log_probs, "top2_margin": top2[:, 0] - top2[:, 1], "regret": top2[:, 0] - chosen}
