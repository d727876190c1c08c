"""Flags of vLLM that nobody may pass on: what we say ourselves, what says it by another name, and what is secret.

Read from vLLM 0.32, `utils/argparse_utils.py`: its parser takes ``_`` for ``-``, a value after ``=``, a key of a JSON
value after a dot (``--speculative-config.model``), any beginning of a flag that fits no other, and a whole file of
flags (``--config``). Any of these would replace the draft of a server behind our back.
"""

from __future__ import annotations

import re

# Written by `ServeCommand.flags` and `argv` from its fields.
_OWN = (
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--dtype",
    "--trust-remote-code",
    "--no-trust-remote-code",
    "--speculative-config",
    "--enable-prefix-caching",
    "--no-enable-prefix-caching",
    "--per-request-spec-decode-metrics",
)
_SECRET = ("--api-key", "--hf-token", "--ssl-keyfile-password")
_SECRET_WORDS = ("token", "key", "password", "passwd", "secret", "credential", "credentials")
INSTEAD = "set a variable in its place, such as VLLM_API_KEY or HF_TOKEN"
# `--long-prefill-token-threshold`, `--return-tokens-as-token-ids`: a number of tokens, and a way to write them.
_OF_TEXT = re.compile(r"token-(threshold|ids)")


def name_of(flag: str) -> str:
    """A flag as the parser knows it, without its value and without what it sets within one.

    >>> name_of("--speculative_config.model=/d")
    '--speculative-config'
    """
    return flag.partition("=")[0].partition(".")[0].replace("_", "-")


def may_be_secret(flag: str) -> bool:
    """Whether a flag's value may be one that no log, no report and no process list should show.

    >>> [may_be_secret(flag) for flag in ("--hf_token=x", "--max-num-batched-tokens", "--long-prefill-token-threshold")]
    [True, False, False]
    """
    spelled = flag.partition("=")[0].replace("_", "-").lower()
    if _is_beginning(name_of(flag), _SECRET):
        return True
    words = re.split(r"[-.]", _OF_TEXT.sub("", spelled))
    return any(word.endswith(_SECRET_WORDS) for word in words)


def objection(flag: str) -> str | None:
    """Why a flag cannot be passed on, without its value; None if it can."""
    name = name_of(flag)
    if not flag.startswith("--"):
        return f"{flag.partition('=')[0]!r} does not start with --"
    if may_be_secret(flag):
        return f"{name} may hold a secret, and flags are recorded: {INSTEAD}"
    if name == "--config":
        return "--config names a file of further flags, which would not be recorded: give the flags themselves"
    if name.startswith("--spec-") or _is_beginning(name, _OWN):
        return f"{name} is a setting of its own"
    return None


def _is_beginning(name: str, of: tuple[str, ...]) -> bool:
    return len(name) > len("--") and any(whole.startswith(name) for whole in of)
