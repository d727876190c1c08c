"""In place of `python -m vllm…`: a server that speaks like vLLM on an MI355X, at once, and dies or waits as it is told.

    python stand_in_vllm.py -m vllm.entrypoints.openai.api_server --model …   serves
    python stand_in_vllm.py engine_probe.py                                   says what engine it is

It rejects whatever is proposed. A process of its own stands for EngineCore, in another process group. In the folder
STAND_IN_NOTES it notes its session, and that it was asked. STAND_IN_FAULTS, ``{"draft's name": "dies" | "waits"}``,
says what becomes of the first request after the warm-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

K, WARM_UP = 3, 2
ENGINE = {
    "vllm": "0.32.0",
    "torch": "2.10",
    "python": "3.12",
    "platform": "rocm",
    "arch": "gfx950",
    "device": "MI355X",
    "num_devices": 2,
}
CORE = "import os, time; os.setpgid(0, 0); time.sleep(600)"
PREFIX = "vllm:spec_decode_num_"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, model: str, draft: str | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.draft, self.lock = model, draft, threading.Lock()
        self.num_asked = self.num_rounds = 0
        self.name = "none" if draft is None else Path(draft).name
        self.notes = Path(os.environ["STAND_IN_NOTES"])
        self.fault = json.loads(os.environ["STAND_IN_FAULTS"]).get(self.name)
        (self.notes / f"{self.name}.session").write_text(str(os.getsid(0)))

    def complete(self, num_tokens: int) -> dict[str, Any]:
        with self.lock:
            self.num_asked += 1
            asked = self.num_asked
        if asked > WARM_UP and self.fault is not None:
            (self.notes / f"{self.name}.asked").touch()
            if self.fault == "waits":
                time.sleep(600)
            self.die_once_the_others_are_asked()
        with self.lock:
            self.num_rounds += num_tokens - 1
        rounds = {
            "num_spec_tokens": K,
            "num_spec_steps": num_tokens - 1,
            "per_step_accepted": [0] * (num_tokens - 1),
            "per_step_drafted": [K] * (num_tokens - 1),
        }
        return {
            "choices": [{"token_ids": [1] * num_tokens, "finish_reason": "length"}],
            "metrics": {"speculative_decoding": None if self.draft is None else rounds},
        }

    def die_once_the_others_are_asked(self) -> None:
        while len(list(self.notes.glob("*.asked"))) < len(json.loads(os.environ["STAND_IN_FAULTS"])):
            time.sleep(0.02)
        print("the stand-in gives up", file=sys.stderr, flush=True)
        os._exit(7)

    def counters(self) -> str:
        totals = {"drafts": self.num_rounds, "draft_tokens": K * self.num_rounds, "accepted_tokens": 0}
        lines = [f'{PREFIX}{name}_total{{engine="0"}} {total}' for name, total in totals.items()]
        lines += [f'{PREFIX}accepted_tokens_per_pos_total{{engine="0",position="{i}"}} 0' for i in range(K)]
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        said = {"/metrics": self.server.counters(), "/v1/models": json.dumps({"data": [{"id": self.server.model}]})}
        self.say(said.get(self.path, ""))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.say(
            json.dumps(
                {"tokens": [1, 2, 3]} if self.path == "/tokenize" else self.server.complete(int(asked["max_tokens"]))
            )
        )

    def say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(arguments: list[str]) -> None:
    if arguments[0] != "-m":
        print(json.dumps(ENGINE))
        return
    told = dict(pairwise(arguments))
    subprocess.Popen([sys.executable, "-c", CORE])
    draft = json.loads(told.get("--speculative-config", "{}")).get("model")
    speculative = f"SpeculativeConfig(method='eagle3', model={draft!r}, num_spec_tokens={K})" if draft else None
    config = f"model={told['--model']!r}, speculative_config={speculative}, device_config=cuda"
    print(f"Initializing a V1 LLM engine (v0.32.0) with config: {config}", file=sys.stderr, flush=True)
    Server(int(told["--port"]), told["--model"], draft).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
