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


@pytest.mark.parametrize("flag", ["--host", "--port", "--api-key", "--speculative-config", "--dtype=float16"])
def test_what_a_field_says_cannot_be_said_twice(flag: str) -> None:
    with pytest.raises(UsageError, match=rf"{flag} is a setting of its own"):
        ServeCommand(target="t", options={flag: "x"})


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
