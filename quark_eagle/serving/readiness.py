"""From a started process to a server that serves: what is awaited, for how long, and what may go wrong on the way."""

from __future__ import annotations

import time

from quark_eagle.errors import EngineError
from quark_eagle.progress import Progress
from quark_eagle.serving.causes import obituary
from quark_eagle.serving.command import ServeCommand
from quark_eagle.serving.endpoint import require_model, served_models
from quark_eagle.serving.ports import LOOPBACK, is_anothers
from quark_eagle.serving.process import Guarded

_POLL_SECONDS = 0.25
# The lines by which vLLM 0.32 tells how far it is; an older version that words one otherwise skips that step.
STAGES = (
    "non-default args",  # entrypoints/serve/utils/api_utils.py: everything is imported
    "LLM engine (v",  # v1/engine/core.py: the engine's own process is there
    "Starting to load model",  # v1/worker/gpu_model_runner.py
    "Loading weights took",  # model_executor/model_loader/default_loader.py
    "init engine (profile",  # v1/engine/core.py: the cache is laid out and the model warm
    "Starting vLLM",  # entrypoints/launchers: it listens
)


def until_ready(process: Guarded, command: ServeCommand, port: int, seconds: float, progress: Progress) -> None:
    """Wait until a server of ours is healthy and serves the wanted model.

    Args:
        process: that was started.
        command: what it was told to serve.
        port: where it is to listen, on the loopback interface.
        seconds: after which it is given up.
        progress: is told of each of the `STAGES`.

    Raises:
        EngineError: it ended, was not ready in time, or serves something else; the log is named and its end quoted.
    """
    deadline = time.monotonic() + seconds
    with progress.task(f"start vLLM: {command.title}", total=len(STAGES), unit="step") as task:
        passed = 0
        while not _serves(process, command, port):
            _refuse_dead(process, command)
            if time.monotonic() > deadline:
                raise EngineError(
                    obituary(
                        f"{command.target}: vLLM was not ready within {seconds:g} s and was ended. Large weights may "
                        "need longer",
                        process,
                    )
                )
            now = stages_passed(process.log())
            task.advance(now - passed)
            passed = now
            time.sleep(_POLL_SECONDS)
        task.advance(len(STAGES) - passed)


def stages_passed(log: str) -> int:
    """How many stages a log tells of: up to the last one that it names.

    >>> stages_passed("INFO non-default args: {} INFO Starting to load model meta/T...")
    3
    """
    return max((number for number, words in enumerate(STAGES, 1) if words in log), default=0)


def _refuse_dead(process: Guarded, command: ServeCommand) -> None:
    code = process.exit_code()
    if code is not None:
        raise EngineError(obituary(f"{command.target}: vLLM ended with {code} before it was ready", process))


def _serves(process: Guarded, command: ServeCommand, port: int) -> bool:
    if is_anothers(port, process.members()):
        return False  # vLLM will find the port taken and say so
    url = f"http://{LOOPBACK}:{port}"
    try:
        served_models(url)
    except EngineError:  # not yet
        return False
    require_model(url, command.model)
    return True
