"""The draft steps of every published kind against vLLM's own module, its own attention kernels and KV cache.

One process for all: `vllm_forward.py`. In float32 what is left is the order of summation. vLLM runs no FP8 draft in
float32; in bfloat16 the bar is what rounding to bfloat16 does to our own result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.live_load import ENVIRONMENT
from quark_eagle.deploy.stand_in import stand_in
from quark_eagle.model import latent
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.rope import Rope
from quark_eagle.trace.lent_window import lent_window
from tests.deploy.export import Export
from tests.published import NOT_LOADED, NOT_REPLAYED, PUBLISHED
from tests.tiny import write_config, write_tiny_draft

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROWS, STEPS = 19, 4
SCRIPT = Path(__file__).with_name("vllm_forward.py")
ORDER_OF_SUMMATION = 2e-6  # relative, in float32; measured: at most 8.4e-7
BF16 = [name for name in PUBLISHED if name not in (*NOT_LOADED, *NOT_REPLAYED)]
FP8 = [
    "Kimi-K2.5: yarn, a KV head for each head, the whole vocabulary",
    "Qwen3, three layers",
    "Kimi-K2.6: latent attention (MLA)",
    "MLA, two layers",
]
MLA = "Kimi-K2.6: latent attention (MLA)"
LENT = ["Llama", "Llama, a sliding window", "Qwen3, three layers", MLA]
"""Beside a target that looks back through a window, which vLLM lends to layers that have none."""
WINDOW = 9

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Asked:
    """A draft, the dtype of everything, and where the target's states and vLLM's answer lie."""

    draft: Path
    dtype: str
    states: Path
    answer: Path

    @property
    def target(self) -> Path:
        """Nothing but a config."""
        return self.draft.with_name("target")


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Asked]:
    """What vLLM computed for every draft, by name; of the FP8 ones, "FP8" stands after it, or "lent"."""
    scratch = tmp_path_factory.mktemp("forward")
    found = {}
    for i, name in enumerate([*BF16, *(f"{name} FP8" for name in FP8), *(f"{name} lent" for name in LENT)]):
        at, is_fp8 = scratch / f"{i}", name.endswith(" FP8")
        at.mkdir()
        # vLLM takes an embedding that a draft lacks from its target: here there is none.
        draft = replace(PUBLISHED[name.removesuffix(" FP8").removesuffix(" lent")], embed_tokens=True)
        directory = Export(draft).write(at / "draft") if is_fp8 else write_tiny_draft(at / "draft", draft)
        found[name] = Asked(directory, "bfloat16" if is_fp8 else "float32", at / "states", at / "answer")
        checkpoint = Checkpoint.open(directory)
        save_file(states_of(Eagle3Layout.of(checkpoint), seed=i), found[name].states)
        target = stand_in(checkpoint.config, None, found[name].dtype)
        found[name].target.mkdir()
        write_config(found[name].target, target | {"sliding_window": WINDOW} if name.endswith(" lent") else target)
    ask_vllm(list(found.values()))
    return found


def states_of(layout: Eagle3Layout, seed: int) -> dict[str, torch.Tensor]:
    """Tokens of a text, and a target's states along its beginning."""
    generator = torch.Generator().manual_seed(seed)
    width = layout.geometry.num_aux_hidden_states * layout.geometry.target_hidden_size
    return {
        "token_ids": torch.randint(layout.geometry.vocab_size, (ROWS + STEPS + 1,), generator=generator),
        "aux": torch.randn(ROWS, width, generator=generator) * 3,
    }


def ask_vllm(asked: list[Asked]) -> None:
    jobs = [
        {"draft": str(one.draft), "target": str(one.target), "dtype": one.dtype,
         "asked": str(one.states), "answered": str(one.answer), "num_rows": ROWS, "num_steps": STEPS}
        for one in asked
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps({"scripts": str(SCRIPT.parents[1] / "deploy"), "drafts": jobs}),
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "ERROR"},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@torch.inference_mode()
def ours(one: Asked, dtype: torch.dtype, window: int | None = None) -> Parts:
    """The same prefill and chain by `model`."""
    checkpoint, given = Checkpoint.open(one.draft), load_file(one.states)
    draft = Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), dtype=dtype, window=window)
    tokens, combined = given["token_ids"], draft.combine(given["aux"])
    embeds = draft.embed(tokens[1 : ROWS + 1])
    past = Past.of(draft, embeds, combined)
    found = {"combined": combined, "prefilled": Chain(draft, [(past, torch.arange(ROWS))]).step(embeds, combined)[1]}
    chain, state = Chain(draft, [(past, torch.tensor([ROWS - 1]))]), combined[-1:]
    for step in range(STEPS):
        state, normed = chain.step(draft.embed(tokens[ROWS + step : ROWS + step + 1]), state)
        logits = draft.linears["lm_head"](normed)
        found |= {f"normed.{step}": normed, f"state.{step}": state, f"logits.{step}": logits}
    return {name: tensor.float() for name, tensor in found.items()}


def theirs(one: Asked) -> Parts:
    """vLLM's; logits of tokens outside the draft's vocabulary are -inf, and stand in its order."""
    found = load_file(one.answer)
    return {name: tensor[tensor.isfinite()].reshape(len(tensor), -1) for name, tensor in found.items()}


def apart(found: Parts, expected: Parts) -> float:
    """The largest relative difference of a part, by the norm of its difference."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - part).norm() / part.norm()) for name, part in expected.items())


@pytest.mark.parametrize("name", BF16)
def test_every_step_is_vllms(asked: dict[str, Asked], name: str) -> None:
    assert apart(ours(asked[name], torch.float32), theirs(asked[name])) < ORDER_OF_SUMMATION


@pytest.mark.parametrize("name", FP8)
def test_every_step_of_an_fp8_draft_is_vllms_within_the_noise_of_bfloat16(asked: dict[str, Asked], name: str) -> None:
    one = asked[f"{name} FP8"]
    mine = ours(one, torch.bfloat16)
    noise = apart(mine, ours(one, torch.float32))
    assert apart(mine, theirs(one)) < 2 * noise < 0.2


@pytest.mark.parametrize("name", LENT)
def test_a_layer_that_names_no_window_looks_back_through_its_targets(asked: dict[str, Asked], name: str) -> None:
    one = asked[f"{name} lent"]
    window = lent_window(AutoConfig.from_pretrained(one.target))
    assert window == WINDOW
    assert apart(ours(one, torch.float32, window), theirs(one)) < ORDER_OF_SUMMATION
    takes_it = name in ("Llama", "Qwen3, three layers")
    assert (apart(ours(one, torch.float32), theirs(one)) > 1000 * ORDER_OF_SUMMATION) is takes_it


@pytest.mark.parametrize("fault", ["scores", "halves", "latent"])
def test_a_fault_in_latent_attention_is_seen(
    asked: dict[str, Asked], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them leaves a draft that runs, and proposes something."""
    if fault == "scores":  # YaRN's factor is left out
        monkeypatch.setattr(latent, "deepseek_score_factor", lambda rope: 1.0)
    elif fault == "halves":  # Llama's way to turn
        deepseek = Rope.deepseek
        monkeypatch.setattr(
            Rope, "deepseek", lambda *given: Rope(deepseek(*given).inverse_frequencies, interleaved=False)
        )
    else:  # W_UK and W_UV exchanged, which have the same shape here
        made = latent.LatentAttention.__init__

        def exchanged(self: latent.LatentAttention, *given: object) -> None:
            made(self, *given)  # type: ignore[arg-type]
            self.key_rows, self.value_rows = self.value_rows, self.key_rows

        monkeypatch.setattr(latent.LatentAttention, "__init__", exchanged)
    assert apart(ours(asked[MLA], torch.float32), theirs(asked[MLA])) > 1000 * ORDER_OF_SUMMATION
