"""One FP8 draft in both formats: vLLM's own module and kernels compute the same bits of it, and so do we.

The CPU's kernels are the same in both: the scale of a row is laid out otherwise on disk, and not for the product.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quark_eagle.checkpoint.family import Convention, DraftFamily
from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.stand_in import stand_in
from tests.deploy.compressed import compressed
from tests.deploy.export import Export
from tests.model.test_vllm_forward import MLA, Asked, ask_vllm, ours, states_of
from tests.published import PUBLISHED
from tests.tiny import TinyDraft, write_config

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

DRAFTS = {
    "llama": TinyDraft(embed_tokens=True, heads=2, kv_heads=1, head_dim=32),
    "speculators": TinyDraft(embed_tokens=True, heads=2, kv_heads=1, head_dim=32, convention=Convention.SPECULATORS),
    "qwen3": TinyDraft(embed_tokens=True, heads=2, kv_heads=1, head_dim=32, family=DraftFamily.QWEN3),
    "mla": replace(PUBLISHED[MLA], embed_tokens=True),
}
FORMATS = ("quark", "compressed-tensors", "compressed-tensors, a scale doubled")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Asked]:
    """What vLLM computed for every draft in every format; the third is wrong, and must show."""
    scratch, found = tmp_path_factory.mktemp("formats"), {}
    for name, draft in DRAFTS.items():
        for form in FORMATS:
            at = scratch / f"{name} {form}"
            at.mkdir()
            export = Export(draft)
            if form != "quark":
                compressed(export)
            if form == FORMATS[-1]:
                export.change("down_proj.weight_scale", lambda scale: scale * 2)
            directory = export.write(at / "draft")
            checkpoint = Checkpoint.open(directory)
            found[name, form] = Asked(directory, "bfloat16", at / "states", at / "answer")
            save_file(states_of(Eagle3Layout.of(checkpoint), seed=7), at / "states")
            write_config(_made(at / "target"), stand_in(checkpoint.config, None, "bfloat16"))
    ask_vllm(list(found.values()))
    return found


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", DRAFTS)
def test_vllm_computes_the_same_bits_in_both_formats(asked: dict[tuple[str, str], Asked], name: str) -> None:
    quarks, other, wrong = (load_file(asked[name, form].answer) for form in FORMATS)

    assert len(quarks) > 10
    assert same(quarks, other)
    assert not same(quarks, wrong)


@pytest.mark.parametrize("name", DRAFTS)
def test_replay_computes_the_same_bits_in_both_formats(asked: dict[tuple[str, str], Asked], name: str) -> None:
    quarks, other, wrong = (dict(ours(asked[name, form], torch.bfloat16)) for form in FORMATS)

    assert same(quarks, other)
    assert not same(quarks, wrong)
