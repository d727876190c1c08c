"""What vLLM is started with, as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quark_eagle.errors import UsageError
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.engine import Engine

ENGINE = Engine(python=Path("/opt/python"), environment={"A": "engine", "B": "engine"})
PAIR = ServeCommand(target="meta/T", draft="/d", num_speculative_tokens=3)


def after(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_server_listens_on_the_loopback_interface_only() -> None:
    argv = PAIR.argv(ENGINE, 8123)
    assert argv[:3] == ["/opt/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert (after(argv, "--host"), after(argv, "--port")) == ("127.0.0.1", "8123")


def test_a_draft_speculates_and_accounts_for_each_round() -> None:
    argv = PAIR.argv(ENGINE, 8123)
    expected = {"method": "eagle3", "model": "/d", "num_speculative_tokens": 3}
    assert json.loads(after(argv, "--speculative-config")) == expected
    assert after(argv, "--per-request-spec-decode-metrics") == "detailed"


def test_without_a_draft_nothing_is_said_of_speculation() -> None:
    """vLLM refuses the account without it (config/vllm.py)."""
    flags = ServeCommand(target="meta/T").flags()
    assert not [flag for flag in flags if "spec" in flag]


def test_the_draft_has_settings_of_its_own() -> None:
    command = ServeCommand(
        target="t", draft="d", num_speculative_tokens=2, speculative={"attention_backend": "TRITON_ATTN"}
    )
    assert json.loads(after(command.flags(), "--speculative-config"))["attention_backend"] == "TRITON_ATTN"


def test_options_are_written_as_on_a_command_line() -> None:
    options = {"--block-size": 1, "--enforce-eager": True, "--off": False, "--compilation-config": {"mode": 0}}
    flags = ServeCommand(target="t", options=options).flags()  # type: ignore[arg-type]
    assert flags[-5:] == ["--block-size", "1", "--enforce-eager", "--compilation-config", '{"mode": 0}']


@pytest.mark.parametrize("caching", [True, False])
def test_prefix_caching_is_always_said(caching: bool) -> None:
    flags = ServeCommand(target="t", prefix_caching=caching).flags()
    assert ("--enable-prefix-caching" in flags, "--no-enable-prefix-caching" in flags) == (caching, not caching)


@pytest.mark.parametrize(
    "flag",
    [
        "--host",
        "--port",
        "--speculative-config",
        "--speculative_config",
        "--speculative-config={}",
        "--speculative-config.model",
        "--speculative_config.model=/other",
        "--speculative-confi",  # argparse takes any beginning that fits no other flag
        "--enable-prefix",
        "--spec-model",
        "--dtype=float16",
    ],
)
def test_what_a_field_says_cannot_be_said_twice(flag: str) -> None:
    with pytest.raises(UsageError, match=r"--[a-z-]+ is a setting of its own"):
        ServeCommand(target="t", options={flag: "x"})


def test_a_file_of_flags_is_refused() -> None:
    with pytest.raises(UsageError, match="--config names a file of further flags"):
        ServeCommand(target="t", options={"--config": "flags.yaml"})


def test_no_flag_hides_in_the_value_of_another() -> None:
    with pytest.raises(UsageError, match=r"--max-model-len: its value '--speculative-config=\{\}' is a flag itself"):
        ServeCommand(target="t", options={"--max-model-len": "--speculative-config={}"})


@pytest.mark.parametrize("name", ["method", "model", "num_speculative_tokens"])
def test_further_settings_of_the_draft_replace_none_of_ours(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} of the speculative config is a setting of its own"):
        ServeCommand(target="t", draft="d", num_speculative_tokens=3, speculative={name: "x"})


@pytest.mark.parametrize(
    "flag", ["--hf-token=hunter2", "--hf_token", "--hf-tok", "--api-key", "--api_key", "--x.secret=hunter2", "--apikey"]
)
def test_no_secret_is_passed_on_or_shown(flag: str) -> None:
    with pytest.raises(UsageError, match=r"may hold a secret.*VLLM_API_KEY or HF_TOKEN") as refused:
        ServeCommand(target="t", options={flag: "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "flag",
    [
        "--config-format",
        "--hf-overrides",
        "--hf-config-path",
        "--long-prefill-token-threshold",
        "--max-num-batched-tokens",
        "--model-impl",
        "--specialize-active-lora",
        "--tokenizer-mode",
    ],
)
def test_flags_that_only_look_like_ours_are_passed_on(flag: str) -> None:
    assert ServeCommand(target="t", options={flag: "x"}).flags()[-2:] == [flag, "x"]


def test_a_flag_is_written_with_its_dashes() -> None:
    with pytest.raises(UsageError, match=r"'max_num_seqs' does not start with --"):
        ServeCommand(target="t", options={"max_num_seqs": 1})


@pytest.mark.parametrize("half", [{"draft": "d"}, {"num_speculative_tokens": 3}])
def test_a_draft_and_k_go_together(half: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="go together"):
        ServeCommand(target="t", **half)  # type: ignore[arg-type]


def test_the_commands_environment_goes_over_the_engines() -> None:
    command = ServeCommand(target="t", environment={"B": "command"})
    assert command.variables(ENGINE).items() >= {"A": "engine", "B": "command", "VLLM_NO_USAGE_STATS": "1"}.items()


def test_a_command_is_written_down_whole() -> None:
    written = json.loads(json.dumps(PAIR.to_json()))
    assert written["target"] == "meta/T"
    assert written["speculative_config"]["num_speculative_tokens"] == 3
    assert written["prefix_caching"] is False
