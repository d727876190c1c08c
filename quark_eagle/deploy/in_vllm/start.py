"""A script: start a whole engine with a target and a draft, and write down what its loader did with the draft.

    python start.py JOB.json

The job names the draft, the arguments of ``vllm.LLM`` and the file for the answer. It ends with 0 whenever there is an
answer, be it that vLLM refuses the draft; with a traceback if vLLM itself could not be started. Its standard input is a
pipe of whoever started it: where that is closed, it is over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def start(job: dict[str, Any]) -> None:
    """Load target and draft; the answer is there as soon as the draft is loaded, and again when the engine is up."""
    import vllm
    from record import recording  # type: ignore[import-not-found]  # our neighbour: where Python looks first

    answer: dict[str, Any] = {"vllm": vllm.__version__, "ready": False, "failure": ""}
    path = Path(job["answer"])

    def write(record: Any) -> None:
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(answer | record.to_json()), encoding="utf-8")
        beside.rename(path)

    engine = job["engine"]
    with_draft = engine | {"speculative_config": _speculative_config(job["draft"])}
    with recording(job["draft"], write) as record:
        try:
            vllm.LLM(**with_draft)
            answer["ready"] = True
        except Exception as error:  # whatever it is: whether it is an answer depends on whose fault it is
            in_config = record.stage == "config" and _configures(engine) and not _configures(with_draft)
            if not in_config and record.stage not in ("build", "load", "loaded"):
                raise
            answer["failure"] = f"{type(error).__name__}: {error}"
    write(record)


def _speculative_config(draft: str) -> dict[str, Any]:
    from vllm.config.load import LoadConfig

    return {
        "method": "eagle3",
        "model": draft,
        "num_speculative_tokens": 1,
        # Otherwise the draft would be made up as the target is.
        "draft_load_config": LoadConfig(load_format="safetensors"),
    }


def _configures(engine: dict[str, Any]) -> bool:
    """Whether vLLM takes these arguments, before anything is built."""
    from vllm.engine.arg_utils import EngineArgs

    try:
        EngineArgs(**engine).create_engine_config()
    except Exception:  # as above: any reason will do
        return False
    return True


if __name__ == "__main__":
    from leash import end_with_the_parent  # type: ignore[import-not-found]  # our neighbour, too

    end_with_the_parent()
    start(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
