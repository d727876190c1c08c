"""What a user says of the engine, as values: further flags of vLLM, and whose recipe is served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quark_eagle.errors import EngineError, UsageError

if TYPE_CHECKING:
    from quark_eagle.serving.command import Option
    from quark_eagle.serving.engine import EngineVersion


def flags(given: Sequence[str]) -> dict[str, Option]:
    """Flags of vLLM as they were given: a whole number is one, a flag alone is on.

    >>> flags(["--max-num-seqs=16", "--enforce-eager", "--kv-cache-dtype=fp8"])
    {'--max-num-seqs': 16, '--enforce-eager': True, '--kv-cache-dtype': 'fp8'}
    """
    options: dict[str, Option] = {}
    for text in given:
        flag, has_value, value = text.partition("=")
        options[flag] = (int(value) if value.isdecimal() else value) if has_value else True
    return options


def gpu_of(gpu: str, version: EngineVersion) -> str:
    """The GPU whose recipe is served; "auto" is the first of the engine's architecture.

    Raises:
        UsageError: "auto", on a GPU for which there is no recipe.
    """
    from quark_eagle.serving.machine import GPU_ARCHES

    if gpu != "auto":
        return gpu
    if version.platform == "cpu":
        return "cpu"
    found = next((name for name, arch in GPU_ARCHES.items() if arch == version.arch), None)
    if found is None:
        raise UsageError(f"--gpu auto: there is no recipe for {version.arch}. Say --gpu of one that comes near.")
    return found


def major_minor(version: str) -> tuple[int, int]:
    """Of vLLM's version.

    Raises:
        EngineError: it has none, as a build from a source tree without tags.

    >>> major_minor("0.32.0+cpu")
    (0, 32)
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        raise EngineError(
            f"vLLM calls itself version {version!r}, but MAJOR.MINOR was needed to know its flags. It may be "
            "built from a source tree without tags. Install a release of it."
        )
    return int(numbers[1]), int(numbers[2])
