"""A sweep compares arms that differ in the draft alone, each at every cell, and none of them always first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from quark_eagle.documents.throughput import ArmName, Workload
from quark_eagle.errors import UsageError
from quark_eagle.throughput.plan import Job, arms_of, benchmark_flags, check, estimate, visits
from tests.throughput.asked import command

ARMS: list[ArmName] = ["none", "baseline", "candidate"]


@pytest.mark.parametrize(("repeats", "passes"), [(2, 2), (4, 2), (4, 4)])
def test_every_arm_stands_on_average_at_the_same_place(repeats: int, passes: int) -> None:
    order = [(visit.arm, job) for visit in visits(ARMS, Workload(repeats=repeats), passes) for job in visit.jobs]
    places = {arm: fmean(place for place, (name, _) in enumerate(order) if name == arm) for arm in ARMS}
    assert len(set(places.values())) == 1


def test_two_visits_that_follow_one_another_share_a_load() -> None:
    planned = visits(ARMS, Workload(repeats=2), passes=2)
    assert [visit.arm for visit in planned] == ["none", "baseline", "candidate", "baseline", "none"]


def test_every_cell_is_measured_once_by_every_arm() -> None:
    workload = Workload(concurrency=[4, 8], repeats=3)
    cells = Counter((visit.arm, job) for visit in visits(ARMS, workload, passes=2) for job in visit.jobs)
    assert set(cells.values()) == {1}
    assert len(cells) == len(ARMS) * 2 * 3


@pytest.mark.parametrize("passes", [0, 3])
def test_a_pass_that_measures_nothing_is_refused(passes: int) -> None:
    with pytest.raises(UsageError, match="Give 1 to 2"):
        visits(ARMS, Workload(repeats=2), passes)


def test_the_estimate_does_not_depend_on_concurrency_but_its_tokens_do() -> None:
    few, many = (
        estimate(visits(ARMS, workload, 2), workload)
        for workload in (Workload(concurrency=[4]), Workload(concurrency=[64]))
    )
    assert few.seconds == many.seconds == 3 * 4 * 12 * 1024 * 0.030
    assert many.num_output_tokens == 16 * few.num_output_tokens


def flag(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def test_a_run_asks_what_amds_sweeps_ask() -> None:
    flags = benchmark_flags(
        command(), "http://127.0.0.1:8000", Workload(), Job(concurrency=16, repeat=0), Path("r.json")
    )
    assert flag(flags, "--num-prompts") == "160"
    assert flag(flags, "--num-warmups") == "32"
    assert (flag(flags, "--random-input-len"), flag(flags, "--random-output-len")) == ("1024", "1024")
    assert flag(flags, "--endpoint") == "/v1/chat/completions"


def test_the_arms_of_a_repeat_get_the_same_prompts_and_another_repeat_gets_others() -> None:
    def asked(arm: str | None, repeat: int) -> list[str]:
        return benchmark_flags(command(arm), "url", Workload(seed=7), Job(concurrency=4, repeat=repeat), Path("r.json"))

    assert asked(None, 1) == asked("drafts/fp8", 1)
    assert (flag(asked(None, 0), "--seed"), flag(asked(None, 1), "--seed")) == ("7", "8")


def test_the_module_runs_a_targets_own_code_only_where_the_server_does() -> None:
    flags = [
        benchmark_flags(command(trust_remote_code=trusted), "url", Workload(), Job(concurrency=4, repeat=0), Path("r"))
        for trusted in (False, True)
    ]
    assert ["--trust-remote-code" in each for each in flags] == [False, True]


def test_arms_made_of_drafts_differ_in_nothing_else() -> None:
    arms = arms_of([command("drafts/bf16"), command("drafts/fp8")])
    assert list(arms) == ARMS
    assert [arm.draft for arm in arms.values()] == [None, "drafts/bf16", "drafts/fp8"]
    check(arms, Workload())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float16"}, "candidate: the dtype is not that of none"),
        ({"options": {"--max-model-len": 8192}}, "the options"),
        ({"environment": {"VLLM_ROCM_USE_AITER": "1"}}, "the environment"),
        ({"num_speculative_tokens": 6}, "candidate: the number of speculative tokens is not that of baseline"),
        ({"speculative": {"attention_backend": "TRITON_ATTN"}}, "the speculative config"),
        ({"speculative": {"rejection_sample_method": "synthetic"}}, "acceptance is synthetic"),
        ({"speculative": {"synthetic_acceptance_length": 3.2}}, "acceptance is synthetic"),
        ({"prefix_caching": True}, "prefix cache is on"),
        ({"draft": None, "num_speculative_tokens": None}, "candidate: is served without a draft"),
    ],
)
def test_an_unequal_or_unreal_arm_is_refused(changes: dict[str, object], said: str) -> None:
    arms = arms_of([command("drafts/bf16"), command("drafts/fp8")])
    arms["candidate"] = command(**({"draft": "drafts/fp8"} | changes))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        check(arms, Workload())


def test_everything_that_is_wrong_is_said_at_once() -> None:
    short = {"--max-model-len": 2048}
    arms = arms_of([command(options=short, prefix_caching=True)])
    with pytest.raises(UsageError, match="4 problems") as found:
        check(arms, Workload())
    assert "--max-model-len 2048 is below 2112" in str(found.value)
