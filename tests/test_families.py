"""What docs/reference/families.md says is supported is what the code says, and what is tested.

Every kind of draft that is published goes through Quark here, by the rules of the newest engine, and a round of draft
steps. Each is stepped through against vLLM's own module in `tests.model.test_vllm_forward`, replayed against a server's
loop written out in `tests.parity.test_replay`, and loaded in vLLM in `tests.deploy.test_agreement`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.support import DEEPSEEK_ROPE_KINDS, ROPE_KINDS, not_replayed
from quark_eagle.deploy.loadable import Loadable
from quark_eagle.deploy.verify import verify
from quark_eagle.errors import CheckpointError
from quark_eagle.model.chain import Chain, Past
from quark_eagle.model.eagle3 import Eagle3Draft
from quark_eagle.model.rope import Rope
from tests.families_table import ENGINE, table
from tests.published import NOT_LOADED, NOT_REPLAYED, PUBLISHED
from tests.quantize.conftest import quantize
from tests.tiny import write_tiny_draft

EMBEDDING = {
    "embed_ids": torch.arange(256),
    "embed_rows": torch.randn(256, 64, generator=torch.Generator().manual_seed(1)).bfloat16(),
}
"""What the target lends to a draft that has none."""
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reference" / "families.md"


def test_the_table_is_what_the_code_says() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8"), "`python -m tests.families_table` prints the table"


@torch.inference_mode()
def states_of(directory: Path) -> torch.Tensor:
    """What the head is given in three steps of a round that starts in a text, which is the same for all drafts."""
    checkpoint = Checkpoint.open(directory)
    draft = Eagle3Draft.load(checkpoint, Eagle3Layout.of(checkpoint), EMBEDDING)
    generator = torch.Generator().manual_seed(0)
    width = draft.geometry.num_aux_hidden_states * draft.geometry.target_hidden_size
    combined = draft.combine(torch.randn(9, width, generator=generator) * 3)
    embeds = draft.embed(torch.randint(draft.geometry.vocab_size, (11,), generator=generator))
    past = Past.of(draft, embeds[:9], combined)
    chain, state, found = Chain(draft, [(past, torch.tensor([8]))]), combined[-1:], []
    for embed in embeds[8:]:
        state, normed = chain.step(embed[None], state)
        found.append(normed)
    return torch.cat(found).float()


@pytest.mark.quark
@pytest.mark.usefixtures("real_quark")
@pytest.mark.parametrize("name", PUBLISHED)
def test_quark_quantizes_it_the_engine_reads_it_as_meant_and_its_steps_stay(name: str, tmp_path: Path) -> None:
    source = write_tiny_draft(tmp_path / "draft", PUBLISHED[name])
    quantized = quantize(source, tmp_path / "fp8").plan.quantized
    report = verify(tmp_path / "fp8", source, engine_version=ENGINE)
    assert any(finding.stops for finding in report.errors) == (name in NOT_LOADED)
    assert bool(report.errors) == (name in NOT_LOADED), report.errors
    assert all(finding.basis == "rules" for finding in report.errors), "every byte is the source's, or rounded"
    assert not any(kept in tensor for tensor in quantized for kept in ("fc.", "lm_head", "kv_b_proj", "norm", "embed"))
    assert {tensor.split(".")[-2] for tensor in quantized} >= {"o_proj", "gate_proj", "up_proj", "down_proj"}
    if name not in NOT_REPLAYED:
        exact, rounded = states_of(source), states_of(tmp_path / "fp8")
        assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.25


def test_exactly_those_drafts_are_refused_that_are_said_to_be() -> None:
    """The lists decide which drafts are loaded and stepped through in vLLM: none may hide there."""
    refused, not_stepped = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, draft) in enumerate(PUBLISHED.items()):
            checkpoint = Checkpoint.open(write_tiny_draft(Path(scratch) / f"{i}", draft))
            found = Loadable.of(checkpoint, ENGINE)
            refused += [name] if found.stops else []
            assert found.stops == bool(found.reasons), found
            not_stepped += [name] if not_replayed(checkpoint, Eagle3Layout.of(checkpoint)) else []
    assert sorted(refused) == sorted(NOT_LOADED)
    assert sorted(not_stepped) == sorted(NOT_REPLAYED)


@pytest.mark.parametrize(
    "kind", ["default", "linear", "llama3", "mrope", "yarn", "deepseek_yarn", "longrope", "dynamic", "ntk"]
)
@pytest.mark.parametrize(("make", "known"), [(Rope.of, ROPE_KINDS), (Rope.deepseek, DEEPSEEK_ROPE_KINDS)])
def test_the_rotary_embeddings_that_are_said_to_be_known_are(kind: str, make: object, known: tuple[str, ...]) -> None:
    rope = {
        "rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    if kind in known:
        make(rope, 32)  # type: ignore[operator]
    else:
        with pytest.raises(CheckpointError, match=f"kind '{kind}', but replay knows"):
            make(rope, 32)  # type: ignore[operator]
