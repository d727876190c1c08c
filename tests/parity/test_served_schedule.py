from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.parity.served.arms import (
    CACHE_SPACE,
    Arms,
    available_bytes,
    context_length,
    equipped,
    layout_here,
    num_hidden_layers,
    relevant,
)
from quark_eagle.parity.served.schedule import Schedule, fits_side_by_side, schedule
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import EngineVersion
from tests.parity.served_answers import prompts

GPUS = ("0,1,2,3", "4,5,6,7")


def steps(plan: Schedule) -> list[list[str]]:
    return [[str(turn) for turn in step] for stage in plan.stages for step in stage.steps]


def made(num_blocks: int, layout: str) -> Schedule:
    return schedule(layout, num_blocks, devices=GPUS if layout == "disjoint devices" else ())  # type: ignore[arg-type]


LAYOUTS = ("side by side", "one at a time", "disjoint devices", "given servers")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_blocks", [4, 6])
def test_each_draft_passes_once_in_each_block_and_the_target_alone_comes_first(num_blocks: int, layout: str) -> None:
    turns = Counter(turn for step in steps(made(num_blocks, layout)) for turn in step)
    drafts = {f"{arm} {block}": 1 for arm in ("baseline", "candidate") for block in range(num_blocks)}
    assert turns == drafts | {"none 0": 1}
    assert steps(made(num_blocks, layout))[0] == ["none 0"]


@pytest.mark.parametrize("layout", ["side by side", "one at a time"])
def test_neither_draft_always_goes_first(layout: str) -> None:
    first = [step[0] for step in steps(made(4, layout))[1::2]]
    assert first == ["baseline 0", "candidate 1", "baseline 2", "candidate 3"]


@pytest.mark.parametrize(("layout", "loads"), [("side by side", 3), ("one at a time", 6), ("disjoint devices", 5)])
def test_loads_are_counted_beforehand_and_few(layout: str, loads: int) -> None:
    assert made(4, layout).num_loads == loads


def test_passes_of_one_draft_that_follow_each_other_share_a_load() -> None:
    stages = made(4, "one at a time").stages
    assert [list(stage.arms) for stage in stages] == [
        ["none"],
        ["baseline"],
        ["candidate"],
        ["baseline"],
        ["candidate"],
        ["baseline"],
    ]


def test_on_disjoint_devices_both_run_at_once_and_trade_places_once() -> None:
    _, before, after = made(4, "disjoint devices").stages
    assert before.arms == {"baseline": GPUS[0], "candidate": GPUS[1]}
    assert after.arms == {"baseline": GPUS[1], "candidate": GPUS[0]}
    assert [len(stage.steps) for stage in (before, after)] == [2, 2]
    assert all(len(step) == 2 for stage in (before, after) for step in stage.steps)


@pytest.mark.parametrize(
    "devices",
    [
        ("0,1", "1,2"),
        ("0,1",),
        ("0,1", "2"),
        ("0", "0"),
        ("0, 1", "1,2"),
        ("0,0", "1,2"),
        ("0,01", "1,2"),
        ("0,1", "2,x"),
        ("0,1", "2,"),
        ("0", ""),
    ],
)
def test_devices_that_are_shared_or_unequal_are_refused(devices: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="two sets"):
        schedule("disjoint devices", 4, devices=devices)


def test_an_odd_number_of_blocks_on_devices_is_refused() -> None:
    with pytest.raises(UsageError, match="an even number was needed"):
        schedule("disjoint devices", 3, devices=GPUS)


def test_two_blocks_tell_too_little_of_noise() -> None:
    with pytest.raises(UsageError, match="at least 3 were needed"):
        schedule("side by side", 2)


def test_memory_that_is_not_known_holds_one_server() -> None:
    assert not fits_side_by_side(1, None)


def version(platform: str) -> EngineVersion:
    return EngineVersion(
        vllm="0.32.0", torch="2", python="3", platform=platform, arch="gfx950", device="", num_devices=8
    )


def arms(platform: str = "rocm", **changes: object) -> Arms:
    base = ServeCommand(target="T", speculative={"attention_backend": "TRITON_ATTN"}, environment={"A": "1"})
    drafts = {"baseline": Path("bf16"), "candidate": Path("fp8")}
    return Arms(base=base, drafts=drafts, num_speculative_tokens=6, platform=platform)  # type: ignore[arg-type]


def test_the_arms_differ_in_nothing_but_the_draft() -> None:
    first, second = (arms().command(arm).to_json() for arm in ("baseline", "candidate"))  # type: ignore[arg-type]
    assert first["speculative_config"].pop("model") == "bf16"
    assert second["speculative_config"].pop("model") == "fp8"
    assert first == second
    assert first["speculative_config"]["num_speculative_tokens"] == 6


def test_the_target_alone_speculates_with_nothing() -> None:
    assert arms().command("none").speculative_config is None


HIP, CUDA = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said which are ours."""
    monkeypatch.delenv(HIP, raising=False)
    monkeypatch.delenv(CUDA, raising=False)


@pytest.mark.parametrize(("platform", "variables"), [("rocm", (HIP, CUDA)), ("cuda", (CUDA,))])
def test_devices_become_the_platforms_variables(platform: str, variables: tuple[str, ...]) -> None:
    assert arms(platform).command("baseline", "4,5").environment == {"A": "1", **dict.fromkeys(variables, "4,5")}


@pytest.mark.parametrize("said", [HIP, CUDA])
def test_devices_are_counted_among_those_that_are_ours(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared machine the first of ours is the driver's fifth."""
    monkeypatch.setenv(said, "4, 5,6,7")
    environment = arms().command("baseline", "1,3").environment
    assert (environment[HIP], environment[CUDA]) == ("5,7", "5,7")
    with pytest.raises(UsageError, match=rf"--devices 3,4: {said}=4, 5,6,7 leaves 4 devices, which count from 0"):
        arms().command("baseline", "3,4")


def test_devices_are_written_as_numbers() -> None:
    alone, before, _ = schedule("disjoint devices", 4, devices=(" 0, 01", "2,3")).stages
    assert alone.arms == {"none": "0,1"}
    assert before.arms == {"baseline": "0,1", "candidate": "2,3"}


def test_a_cache_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_SPACE, "4GB")
    with pytest.raises(UsageError, match="VLLM_CPU_KVCACHE_SPACE=4GB: a whole number of GiB was needed"):
        layout_here(arms("cpu"))


@pytest.mark.parametrize("config", ['{"text_config": null, "num_hidden_layers": 7}', '{"text_config": [1]}', "[]", "{"])
def test_a_targets_odd_config_tells_what_it_can(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    assert num_hidden_layers(tmp_path) == (7 if "7" in config else None)


def test_a_cpu_has_no_devices_to_share_out() -> None:
    with pytest.raises(UsageError, match="computes on the CPU"):
        arms("cpu").command("baseline", "0")


def test_a_gpu_is_one_servers_and_a_cpu_may_be_twos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_SPACE, "1")
    monkeypatch.setattr("quark_eagle.parity.served.arms.available_bytes", lambda: 64 << 30)
    assert layout_here(arms("rocm")) == "one at a time"
    assert layout_here(arms("cpu")) == "side by side"
    assert layout_here(arms("cpu"), one_at_a_time=True) == "one at a time"
    monkeypatch.setattr("quark_eagle.parity.served.arms.available_bytes", lambda: 6 << 30)
    assert layout_here(arms("cpu")) == "one at a time"


def test_what_the_kernel_calls_available_is_read_in_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert available_bytes(meminfo) == 42 * 1024
    assert available_bytes(tmp_path / "none") is None


def test_every_arm_has_room_for_the_longest_conversation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 300, "num_hidden_layers": 61}}')
    base = ServeCommand(target=str(tmp_path))
    assert equipped(base, prompts("a"), 20, version("rocm")).options == {"--max-model-len": 1 + 20 + 256}
    assert equipped(base, prompts("a"), 2000, version("rocm")).options == {"--max-model-len": 300}
    assert (context_length(tmp_path), num_hidden_layers(tmp_path)) == (300, 61)
    assert context_length(tmp_path / "elsewhere") is None


def test_the_users_own_length_wins() -> None:
    base = ServeCommand(target="T", options={"--max-model-len": 7})
    assert equipped(base, prompts("a"), 20, version("rocm")).options == {"--max-model-len": 7}


def test_on_a_cpu_the_cache_is_bounded_so_that_two_servers_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_SPACE, raising=False)
    base = ServeCommand(target="T")
    assert equipped(base, prompts("a"), 20, version("cpu")).environment == {CACHE_SPACE: "2"}
    assert equipped(base, prompts("a"), 20, version("rocm")).environment == {}


@pytest.mark.parametrize("secret", ["API_KEY", "HF_TOKEN", "SECRET", "PASSWORD", "PASSPHRASE", "CREDENTIALS", "AUTH"])
def test_no_secret_is_recorded(secret: str) -> None:
    found = relevant({f"VLLM_{secret}": "x", "HSA_NO_SCRATCH_RECLAIM": "1"})
    assert found == {"HSA_NO_SCRATCH_RECLAIM": "1"}


def test_the_engines_own_way_to_be_deterministic_is_recorded() -> None:
    assert relevant({"VLLM_BATCH_INVARIANT": "1"}) == {"VLLM_BATCH_INVARIANT": "1"}
