"""Whether a server may speak for an arm: of the draft that is named, with nothing made up or set otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.documents.served import ServedArmName
from quark_eagle.parity.served.voice import Voice, reasons_against
from quark_eagle.parity.side import Side
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.process import Guarded
from quark_eagle.serving.server import VllmServer
from quark_eagle.serving.server_facts import ServerFacts

K = 3
FACTS = ServerFacts(vllm="0.32.0", num_speculative_tokens=K, rejection_sample_method="standard", prefix_caching=False)
INTO_FP8 = "Attempted to load weight fc.weight with dtype torch.bfloat16 into parameter with dtype torch.float8_e4m3fn"
INTO_BF16 = "Attempted to load weight w with dtype torch.float32 into parameter with dtype torch.bfloat16"


@pytest.fixture
def drafts(tiny_draft: Path, tmp_path: Path) -> dict[ServedArmName, Side]:
    """Two drafts that differ."""
    other = tmp_path / "fp8"
    shutil.copytree(tiny_draft, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "quark"}}))
    return {"baseline": Side.open(tiny_draft), "candidate": Side.open(other)}


def given(arm: ServedArmName, draft: Side, served: object, **facts: Any) -> Voice:
    """A server that was given for an arm, and says that it speculates with ``served``."""
    told = replace(FACTS, draft=None if served is None else str(served), **facts)
    return Voice(arm=arm, url=f"http://{arm}", model="t", facts=told, draft=draft)


def own(arm: ServedArmName, draft: str | None, said: str | None, **facts: Any) -> Voice:
    """A server of our own that was started with a draft, and says which in its log."""
    command = ServeCommand(target="t", draft=draft, num_speculative_tokens=None if draft is None else K)
    process: Guarded = None  # type: ignore[assignment]  # nothing is asked of it
    server = VllmServer(engine=Engine(python=Path("p")), command=command, port=1, process=process, ready_seconds=1.0)
    told = replace(FACTS, draft=said, num_speculative_tokens=None if said is None else K, **facts)
    return Voice(arm=arm, url=server.url, model="t", facts=told, server=server)


def test_servers_of_the_named_drafts_may_speak_for_them(drafts: dict[ServedArmName, Side]) -> None:
    first, second = (given(arm, it, it.checkpoint.directory) for arm, it in drafts.items())
    assert reasons_against(first, [], K) == []
    assert reasons_against(second, [first], K) == []


def test_a_given_server_of_another_draft_is_refused(drafts: dict[ServedArmName, Side]) -> None:
    """Two servers of one draft would be at par whatever the other one is."""
    (found,) = reasons_against(given("candidate", drafts["candidate"], drafts["baseline"].checkpoint.directory), [], K)
    assert "whose weights or config are not those of" in found


def test_a_copy_of_the_named_draft_is_the_named_draft(drafts: dict[ServedArmName, Side], tmp_path: Path) -> None:
    copied = shutil.copytree(drafts["candidate"].checkpoint.directory, tmp_path / "copied")
    assert reasons_against(given("candidate", drafts["candidate"], copied), [], K) == []


def test_a_directory_without_a_draft_is_no_draft(drafts: dict[ServedArmName, Side], tmp_path: Path) -> None:
    (found,) = reasons_against(given("candidate", drafts["candidate"], tmp_path), [], K)
    assert found.startswith("its draft cannot be read")


def test_a_draft_on_another_machine_cannot_be_tied_and_two_of_one_name_are_one(
    drafts: dict[ServedArmName, Side],
) -> None:
    first, second = (given(arm, it, "amd/elsewhere") for arm, it in drafts.items())
    assert not first.is_tied
    assert reasons_against(first, [], K) == []
    assert reasons_against(second, [first], K) == ["candidate and baseline both speculate with amd/elsewhere"]
    same = replace(second, draft=first.draft)
    assert reasons_against(same, [first], K) == []


@pytest.mark.parametrize("name", ["draft", "rejection_sample_method", "prefix_caching"])
def test_a_given_server_has_to_tell_what_acceptance_hangs_on(drafts: dict[ServedArmName, Side], name: str) -> None:
    silent = given("baseline", drafts["baseline"], drafts["baseline"].checkpoint.directory)
    silent = replace(silent, facts=replace(silent.facts, **{name: None}))
    (found,) = reasons_against(silent, [], K)
    assert found.startswith(f"it does not tell its {name}. Start it with VLLM_SERVER_DEV_MODE=1")


@pytest.mark.parametrize(
    ("wanted", "said"), [("/fp8", "/bf16"), ("/fp8", None), (None, "/bf16")], ids=["another", "nothing", "too much"]
)
def test_our_own_server_speculates_with_what_it_was_started_with(wanted: str | None, said: str | None) -> None:
    """Whichever way another draft came in: a flag, a file of flags, a variable."""
    arm: ServedArmName = "none" if wanted is None else "candidate"
    (found,) = reasons_against(own(arm, wanted, said), [], K)
    assert "it was started with" in found


def test_one_path_may_be_written_in_two_ways(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert reasons_against(own("candidate", str(tmp_path), str(tmp_path / "link")), [], K) == []


@pytest.mark.parametrize(("arm", "draft"), [("none", None), ("baseline", "/bf16")])
def test_a_weight_cast_into_fp8_is_a_reason_against_all_but_the_candidate(
    arm: ServedArmName, draft: str | None
) -> None:
    (found,) = reasons_against(own(arm, draft, draft, casts=(INTO_BF16, INTO_FP8)), [], K)
    assert found == f"a weight was cast while it was loaded: {INTO_FP8}"
    assert reasons_against(own("candidate", "/fp8", "/fp8", casts=(INTO_FP8,)), [], K) == []


def test_another_k_is_a_reason_against_it() -> None:
    voice = own("candidate", "/fp8", "/fp8")
    assert reasons_against(voice, [], K + 1) == ["k: wanted 4, found 3"]
