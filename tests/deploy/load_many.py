"""Run by a Python that has vLLM: loads many drafts one after another, each as the engine's drafter would.

A whole engine takes half a minute to start. What it does with a draft is three calls (v1/spec_decode/eagle.py of
vLLM 0.32): its configuration is made, the worker's process group is there, and `get_model` builds and loads. Here they
are made without the rest, in a fraction of a second; `test_live_load.py` holds the short way against whole engines.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from typing import Any


def built(draft: str, target: str, dtype: str = "bfloat16") -> tuple[Any, Any]:
    """(configuration, module) of one draft beside one target, whose weights are never made."""
    from vllm.config import set_current_vllm_config
    from vllm.config.load import LoadConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    config = EngineArgs(
        model=target,
        dtype=dtype,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=1,
        speculative_config={
            "method": "eagle3",
            "model": draft,
            "num_speculative_tokens": 1,
            "draft_load_config": LoadConfig(load_format="safetensors"),
        },
    ).create_engine_config()
    speculative = config.speculative_config
    with set_current_vllm_config(config):
        module = get_model(
            vllm_config=config,
            model_config=speculative.draft_model_config,
            load_config=speculative.draft_load_config,
        )
    return config, module


def load(draft: str, target: str) -> dict[str, Any]:
    """What was recorded of one load, and why it was refused."""
    import vllm
    from record import recording

    refusal = ""
    with recording(draft) as record:
        try:
            built(draft, target)
        except Exception as error:  # whatever it is, it is the answer
            refusal = f"{type(error).__name__}: {error}"
    return record.to_json() | {"vllm": vllm.__version__, "ready": not refusal, "failure": refusal}


def prepare() -> None:
    """What a CPU worker does before it loads a model."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop
    from vllm.v1.worker.gpu_worker import init_worker_distributed_environment

    _set_torch_accelerator_to_noop()
    config = VllmConfig()
    with tempfile.TemporaryDirectory() as scratch, set_current_vllm_config(config):
        init_worker_distributed_environment(config, 0, f"file://{scratch}/group", 0, "gloo")
    gc.collect = lambda generation=2: 0  # the loader collects twice a draft, half a second in a process of this size


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    sys.path.insert(0, asked["record"])
    prepare()
    print("ANSWER" + json.dumps([load(draft, target) for draft, target in asked["loads"]]))
