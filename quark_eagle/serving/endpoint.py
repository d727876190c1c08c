"""Asking a server over HTTP: one place for its address, its key and what a bad answer means.

A server that was given by its address may want a key. It is read from the variable that vLLM itself reads
(``VLLM_API_KEY``), sent as a header, and neither stored nor logged. A server of our own inherits the variable.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from quark_eagle.errors import EngineError, UsageError

if TYPE_CHECKING:
    import httpx

API_KEY_VARIABLE = "VLLM_API_KEY"
_SECONDS = 10.0


def settings(url: str, seconds: float = _SECONDS) -> dict[str, Any]:
    """The arguments of an `httpx` client for a server.

    On the loopback interface no proxy is asked, whatever the environment says.

    Raises:
        UsageError: not an ``http://`` or ``https://`` address, or one with a user name or password in it.
    """
    import httpx

    shown = url.rpartition("@")[2]  # without a password
    try:
        parts = urlsplit(url)
        _, _ = parts.port, httpx.URL(url)  # which may be none
    except (ValueError, httpx.InvalidURL) as error:
        raise UsageError(f"{shown}: not the address of a server, such as http://127.0.0.1:8000 ({error}).") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{shown}: not the address of a server, such as http://127.0.0.1:8000.")
    if parts.username or parts.password:
        raise UsageError(f"{parts.hostname}: a password does not belong in an address. Set {API_KEY_VARIABLE} instead.")
    key = os.environ.get(API_KEY_VARIABLE)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": seconds,
        "trust_env": parts.hostname not in ("127.0.0.1", "localhost", "::1"),
    }


def ask(url: str, path: str, seconds: float = _SECONDS) -> httpx.Response:
    """The answer to a GET, if it is 200.

    Raises:
        EngineError: no answer, or another status; the message says which.
    """
    import httpx

    try:
        with httpx.Client(**settings(url, seconds)) as client:
            answer = client.get(path)
    except httpx.HTTPError as error:
        raise EngineError(f"{url}{path}: the server does not answer ({describe(error)}).") from error
    if answer.status_code in (401, 403):
        raise EngineError(f"{url}{path}: the server wants a key. Set {API_KEY_VARIABLE}.")
    if answer.status_code != 200:
        raise EngineError(f"{url}{path}: answered {answer.status_code}, but 200 is needed. Is this a vLLM server?")
    return answer


def ask_json(url: str, path: str, seconds: float = _SECONDS) -> Any:
    """The JSON of an answer.

    Raises:
        EngineError: no answer, another status, or something that is not JSON.
    """
    answer = ask(url, path, seconds)
    try:
        return answer.json()
    except ValueError as error:
        raise EngineError(f"{url}{path}: answered {answer.text[:80]!r}, but JSON is needed.") from error


def served_models(url: str) -> tuple[str, ...]:
    """The names of the models that a healthy server answers to.

    Raises:
        EngineError: it does not answer, is not healthy, or lists no models as vLLM does.
    """
    ask(url, "/health")
    listed = ask_json(url, "/v1/models")
    try:
        return tuple(str(model["id"]) for model in listed["data"])
    except (KeyError, TypeError) as error:
        raise EngineError(f"{url}/v1/models: lists no models. Is this a vLLM server?") from error


def require_model(url: str, model: str) -> None:
    """See that a server is healthy and serves a model.

    Raises:
        EngineError: it does not answer, or serves something else.
    """
    models = served_models(url)
    if model not in models:
        raise EngineError(
            f"{url}: serves {', '.join(models) or 'nothing'}, but {model} is needed. Give the address of a server of "
            "that model, or name the model as the server does."
        )


def describe(error: Exception) -> str:
    """An exception of httpx in a few words; some of them have no text of their own."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
