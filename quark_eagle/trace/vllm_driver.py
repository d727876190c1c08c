"""The process in which vLLM runs: reads orders, one JSON object a line, and answers in the same way.

A script of the Python that has vLLM, which need not be ours: it imports nothing of quark_eagle. Started by
`vllm_process.VllmProcess` with the address of the socket on which it is asked; what vLLM itself prints goes to the log.

    {"order": "start", "engine": {…}}                → {"done": {"vllm": …, "dtype": …}}
    {"order": "encode", "chats": [[…], …]}           → {"done": [{"token_ids": […]} or {"refused": "…"}, …]}
    {"order": "answer", "requests": […], …}          → {"tokens": n} … {"done": [{…}, …]}

An answer is made in two passes. First all requests together, as a server would; with a draft, speculating, and what
every round accepted is kept. Then one request after the other, prompt and answer read in one go, to capture the states
along the path. The second pass costs what reading a prompt of that length costs, a small part of generating it.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Driver:
    """One engine, and the orders that it knows."""

    def __init__(self, reply: Callable[[dict[str, Any]], None]) -> None:
        self.reply = reply
        self.llm: Any = None
        self.num_asked = 0

    def start(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Load the target, and the draft if there is one."""
        import torch
        import vllm
        from vllm import LLM

        self.llm = LLM(**engine)
        config = self.llm.llm_engine.vllm_config
        return {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "quantization": config.model_config.quantization,
            "max_model_len": config.model_config.max_model_len,
            "sliding_window": config.cache_config.sliding_window,
        }

    def encode(self, chats: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
        """The conversations as tokens, by the engine's own chat template and tokenizer."""
        try:
            return self._encode(chats)
        except Exception:  # whatever a template or tokenizer raises; asked one by one it is told whose it is
            return [self._encode_one(chat) for chat in chats]

    def _encode_one(self, chat: list[dict[str, str]]) -> dict[str, Any]:
        try:
            return self._encode([chat])[0]
        except Exception as error:
            return {"refused": f"{type(error).__name__}: {error}"}

    def _encode(self, chats: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
        from vllm import SamplingParams

        # The one public call that renders a conversation in every version; a token of each is generated and dropped.
        sampling = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
        outputs = self.llm.chat(chats, sampling, use_tqdm=False)
        return [{"token_ids": list(output.prompt_token_ids)} for output in outputs]

    def answer(
        self,
        requests: list[dict[str, Any]],
        directory: str,
        layers: list[int],
        state_dtype: str,
        sampling: dict[str, Any],
    ) -> dict[str, Any]:
        """Generate the answers, then write the states of each path into a file of its own."""
        started, before = time.perf_counter(), self._num_drafts()
        answers = self._generate(requests, sampling)
        generated, after = time.perf_counter(), self._num_drafts()
        for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            answer["file"] = str(Path(directory) / f"{place:05d}.safetensors")
            path = request["token_ids"] + answer["token_ids"]
            self.llm.collective_rpc("quark_eagle_begin", args=(layers, path[:-1]))
            self._run([(path[:-1], {"max_tokens": 1, "temperature": 0.0})], lambda place, tokens, reason: None)
            self.llm.collective_rpc(
                "quark_eagle_end",
                args=(answer["file"], answer["token_ids"], state_dtype, sampling["temperature"], sampling["top_p"]),
            )
        return {
            "answers": answers,
            "num_drafts": None if before is None or after is None else after - before,
            "generate_seconds": generated - started,
            "capture_seconds": time.perf_counter() - generated,
        }

    def _generate(self, requests: Sequence[dict[str, Any]], sampling: dict[str, Any]) -> list[dict[str, Any]]:
        """Tokens, reason to stop, and how many tokens every step of the engine brought."""
        answers: list[dict[str, Any]] = [{"token_ids": [], "steps": [], "stop_reason": ""} for _ in requests]

        def on_step(place: int, tokens: list[int], reason: str | None) -> None:
            answer = answers[place]
            new = len(tokens) - len(answer["token_ids"])
            if new:
                answer["steps"].append(new)
            answer["token_ids"], answer["stop_reason"] = tokens, reason or ""
            left = sampling["max_tokens"] - len(tokens) if reason else 0
            self.reply({"tokens": new + left})

        seeds = [{} if request["seed"] is None else {"seed": request["seed"]} for request in requests]
        self._run(
            [(request["token_ids"], sampling | seed) for request, seed in zip(requests, seeds, strict=True)], on_step
        )
        return answers

    def _run(
        self,
        requests: Sequence[tuple[list[int], dict[str, Any]]],
        on_step: Callable[[int, list[int], str | None], None],
    ) -> None:
        """Run requests to their end, told after each step of the engine what each of them has so far."""
        from vllm import SamplingParams

        engine, first = self.llm.llm_engine, self.num_asked
        for token_ids, sampling in requests:
            parameters = SamplingParams(**sampling, detokenize=False)
            engine.add_request(str(self.num_asked), {"prompt_token_ids": token_ids}, parameters)
            self.num_asked += 1
        while engine.has_unfinished_requests():
            for output in engine.step():
                (only,) = output.outputs
                on_step(int(output.request_id) - first, list(only.token_ids), only.finish_reason)

    def _num_drafts(self) -> int | None:
        """Rounds that the engine has counted so far; None without speculation."""
        if self.llm.llm_engine.vllm_config.speculative_config is None:
            return None
        named = {metric.name: metric for metric in self.llm.get_metrics()}
        found = named.get("vllm:spec_decode_num_drafts")
        return int(found.value) if found is not None else 0


def main(address: str) -> None:
    """Answer orders until whoever asks is gone."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)

    def reply(content: dict[str, Any]) -> None:
        connection.sendall(json.dumps(content).encode() + b"\n")

    driver = Driver(reply)
    for line in connection.makefile("r", encoding="utf-8"):
        order = json.loads(line)
        try:
            reply({"done": getattr(driver, order.pop("order"))(**order)})
        except Exception as error:  # the process's boundary: said to whoever asked, and in the log with its traceback
            traceback.print_exc()
            reply({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1])
