"""Rendering: conversations as token ids, by the engine's own chat template and tokenizer.

``POST /tokenize`` with messages (vLLM 0.32, `entrypoints/serve/tokenize/protocol.py`, ``TokenizeChatRequest``): the
answer's tokens are what a chat completion would be started with. A tokenizer that is Python code of the target's own
therefore runs in the server, if it was started to let it, and never in our process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quark_eagle.errors import EngineError, findings
from quark_eagle.serving.endpoint import describe, settings

if TYPE_CHECKING:
    import httpx

_SECONDS = 60.0
_NAMED = 5  # conversations named in an error; the rest are counted

Chat = Sequence[Mapping[str, str]]


def render(url: str, model: str, chats: Mapping[str, Chat]) -> dict[str, tuple[int, ...]]:
    """The token ids of every conversation, by the same names.

    Args:
        url: of the server.
        model: the name that it answers to.
        chats: conversations by name; each is a list of ``role`` and ``content``.

    Raises:
        EngineError: the server does not answer, or refuses some; all of these are told together.
    """
    import httpx

    rendered: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    try:
        with httpx.Client(**settings(url, _SECONDS)) as client:
            for name, chat in chats.items():
                answer = client.post("/tokenize", json={"model": model, "messages": list(chat)})
                tokens = _tokens(answer)
                if isinstance(tokens, str):
                    problems.append(f"{name}: {tokens}")
                else:
                    rendered[name] = tokens
    except httpx.HTTPError as error:
        raise EngineError(f"{url}/tokenize: the server does not answer ({describe(error)}).") from error
    if problems:
        more = [f"and {len(problems) - _NAMED} more."] if len(problems) > _NAMED else []
        advice = "The target's chat template decides what it takes. Leave these prompts out, or mend the template."
        raise EngineError(findings(f"{url}/tokenize does not render every prompt", [*problems[:_NAMED], *more], advice))
    return rendered


def _tokens(answer: httpx.Response) -> tuple[int, ...] | str:
    """The tokens of an answer, or what it says instead."""
    if answer.status_code != 200:
        return f"answered {answer.status_code}: {' '.join(answer.text.split())[:200]}"
    try:
        tokens = tuple(int(token) for token in answer.json()["tokens"])
    except (ValueError, KeyError, TypeError):
        return f"answered {answer.text[:80]!r}, but tokens were needed."
    return tokens or "no tokens at all."
