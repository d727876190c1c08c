"""Addresses and keys of servers."""

from __future__ import annotations

import pytest

from quark_eagle.errors import EngineError, UsageError
from quark_eagle.serving.endpoint import API_KEY_VARIABLE, ask, settings
from quark_eagle.serving.ports import free_port


def test_a_key_comes_from_the_environment_and_goes_into_a_header_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "s3cret")
    found = settings("http://node7:8000")
    assert found.pop("headers") == {"Authorization": "Bearer s3cret"}
    assert "s3cret" not in str(found)
    monkeypatch.delenv(API_KEY_VARIABLE)
    assert settings("http://node7:8000")["headers"] == {}


def test_no_proxy_stands_before_the_loopback_interface() -> None:
    assert settings("http://127.0.0.1:8000")["trust_env"] is False
    assert settings("https://node7.example")["trust_env"] is True


@pytest.mark.parametrize(
    "url",
    [
        "node7:8000",
        "ftp://node7",
        "http://",
        "/v1",
        "http://127.0.0.1:80x0",
        "http://[::1",
        "http://me:s3cret@node7:80x0",
        "http://node7:99999999",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not the address of a server") as caught:
        settings(url)
    assert "s3cret" not in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=API_KEY_VARIABLE) as caught:
        settings("http://me:s3cret@node7:8000")
    assert "s3cret" not in str(caught.value)


def test_nobody_there_is_an_error_that_says_so() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=rf"{url}/health: the server does not answer \(ConnectError"):
        ask(url, "/health")
