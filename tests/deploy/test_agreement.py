"""What the rules foretell against what vLLM does, over every draft that is accepted and every seeded mistake."""

from __future__ import annotations

import re

import pytest

from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.deploy.agreement import disagreements
from quark_eagle.deploy.findings import Finding
from quark_eagle.deploy.live_findings import in_rows, live_findings
from quark_eagle.deploy.verify import VerifyReport, verify
from quark_eagle.deploy.vllm_rules import VLLM_0_32
from quark_eagle.errors import CheckpointError
from tests.deploy.many_loads import LAYERS, Loaded, good_drafts, wrong_drafts
from tests.published import NOT_LOADED

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

GOOD, WRONG = tuple(good_drafts()), tuple(wrong_drafts())
REFUSED_GOOD = {name for name in GOOD if "model_layers" in name.lower() or name.startswith("deepseek_mla speculators")}
REFUSED_GOOD |= {f"{name}, {dtype}" for name in NOT_LOADED for dtype in ("BF16", "FP8")}
"""Drafts that `quantize` takes, and that no vLLM loads: the names begin with model., or there is no such class."""
NOT_SEEN_BY_LOADING = {
    # The numbers are wrong, and loading does not look at numbers.
    *("bug: a negative scale", "bug: a zero scale", "bug: an infinite scale", "bug: NaN in the payload"),
    "compressed-tensors bug: a negative scale",
    *("bug: infinity in a kept tensor", "broken: nan_weight", "broken: infinite_weight"),
    *("bug: d2t beyond the vocabulary", "bug: d2t not one to one", "broken: d2t_outside_the_vocabulary"),
    *("broken: d2t_of_ids_instead_of_offsets", "broken: d2t_with_two_tokens_for_one_target"),
    # vLLM never reads t2d.
    *("bug: t2d of another vocabulary", "broken: t2d_disagreeing_with_d2t", "broken: t2d_not_bool"),
    # What goes wrong comes after loading: the target's head is shared, kv_b_proj is taken apart.
    *(
        "bug: no head of the pruned vocabulary",
        "broken: pruned_vocabulary_without_head",
        "MLA bug: kv_b_proj quantized",
    ),
    # vLLM does not read what eagle_config says of an MTP layer's norms; here no tensor gives it away.
    "ModelOpt: an MTP layer in name only",
    # Static scales are numbers, and those of a cache may be left out.
    "compressed-tensors bug: no scales of the KV cache",
    *(
        f"static: {name}"
        for name in (
            "NaN",
            "infinite",
            "zero",
            "negative",
            "what vLLM begins with",
            "inputs that differ",
            "weight scales that differ",
            "a weight scale that FP16 cannot carry",
            "no cache scales",
            "keys without values",
            "a cache scale of zero",
        )
    ),
}


def report_of(loaded: Loaded) -> VerifyReport:
    return verify(loaded.directory, num_target_layers=LAYERS)


def errors_of(loaded: Loaded) -> list[Finding]:
    assert loaded.live is not None
    found = live_findings(loaded.live, Checkpoint.open(loaded.directory), VLLM_0_32, real_target=False)
    return [finding for finding in found if finding.severity == "error"]


@pytest.mark.parametrize("name", [*GOOD, *WRONG])
def test_vllm_does_what_the_rules_foretold(loads: dict[str, Loaded], name: str) -> None:
    loaded = loads[name]
    if loaded.live is None:
        with pytest.raises(CheckpointError):
            report_of(loaded)
        return

    assert disagreements(report_of(loaded), loaded.live, VLLM_0_32) == []


@pytest.mark.parametrize("name", [name for name in GOOD if name not in REFUSED_GOOD])
def test_a_good_draft_is_in_the_engine_byte_for_byte(loads: dict[str, Loaded], name: str) -> None:
    loaded = loads[name]
    assert loaded.live is not None

    assert errors_of(loaded) == []
    assert report_of(loaded).ok
    filled = [parameter for parameter in loaded.live.parameters if in_rows(loaded.live, parameter)]
    assert len(filled) >= 9


def test_a_good_draft_that_no_vllm_loads_is_foretold(loads: dict[str, Loaded]) -> None:
    for name in REFUSED_GOOD:
        live = loads[name].live
        assert live is not None
        assert live.refused_while, name
        assert any(finding.stops for finding in report_of(loads[name]).errors), name
    assert len(REFUSED_GOOD) == 12 + 2 * len(NOT_LOADED)
    assert set(GOOD) >= REFUSED_GOOD


def test_loading_shows_every_mistake_that_is_not_one_of_numbers(loads: dict[str, Loaded]) -> None:
    unseen = {name for name in WRONG if loads[name].live is not None and not errors_of(loads[name])}

    assert unseen == NOT_SEEN_BY_LOADING


def test_what_loading_does_not_show_the_rules_or_the_content_do(loads: dict[str, Loaded]) -> None:
    silent = {name for name in NOT_SEEN_BY_LOADING if report_of(loads[name]).ok}

    # No engine reads t2d; `quantize` refuses both.
    assert silent == {"broken: t2d_disagreeing_with_d2t", "broken: t2d_not_bool"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bug: an architecture that vLLM has not", "stops while reading its config: .*FooForCausalLM"),
        ("bug: no export", "stops while building it: ValueError: The export key"),
        ("bug: a name misspelled", "stops while loading it: ValueError: There is no module"),
        ("bug: fc by its name on disk", "is BF16, and model.fc.weight is F8_E4M3: vLLM casts it silently"),
        ("bug: no scale of one part", r"rows 64-95 of 128 were not written"),
        ("bug: a bias that the config denies", "was read and dropped"),
        ("bug: another intermediate_size", r"took \[96, 64\] of its \[128, 64\], and the rest is dropped"),
        ("bug: two names for one parameter", "was overwritten in model.layers.0.hidden_norm.weight"),
    ],
)
def test_every_kind_of_failure_is_told_as_it_happened(loads: dict[str, Loaded], name: str, said: str) -> None:
    told = "\n".join(f"{finding.subject}: {finding.message}" for finding in errors_of(loads[name]))

    assert re.search(said, told), told


def test_a_fused_parameter_holds_its_parts_in_the_order_of_its_rows(loads: dict[str, Loaded]) -> None:
    live = loads["llama midlayer fp8"].live
    assert live is not None
    places = in_rows(live, "model.layers.0.self_attn.qkv_proj.weight")

    assert [(place.tensor.split(".")[-2], place.row, place.rows) for place in places] == [
        ("q_proj", 0, 64),
        ("k_proj", 64, 32),
        ("v_proj", 96, 32),
    ]
