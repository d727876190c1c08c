"""A proxy in front of a real server that spoils what passes: slow, garbled, cut short, or not at all."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Reply:
    """What the real server answered; a fault changes it before it is passed on."""

    path: str
    number: int  # of the requests with this path, from 1
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    cut_after: int | None = None  # bytes, after which the connection is dropped


Fault = Callable[[Reply], None]


@dataclass
class Proxy:
    url: str
    asked: dict[str, int] = field(default_factory=dict)


@contextmanager
def proxy(server: str, fault: Fault) -> Iterator[Proxy]:
    """Stands in front of a server; every answer passes through ``fault``."""
    there, lock = urlsplit(server), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on(None)

        def do_POST(self) -> None:
            self.pass_on(self.rfile.read(int(self.headers["Content-Length"])))

        def pass_on(self, body: bytes | None) -> None:
            with lock:
                number = made.asked[self.path] = made.asked.get(self.path, 0) + 1
            connection = http.client.HTTPConnection(there.hostname or "", there.port)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            reply = Reply(
                path=self.path,
                number=number,
                body=answer.read(),
                status=answer.status,
                content_type=answer.getheader("Content-Type", ""),
            )
            connection.close()
            fault(reply)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked has gone, which is what some faults are about."""

    listening = Server(("127.0.0.1", 0), Handler)
    made = Proxy(url=f"http://127.0.0.1:{listening.server_address[1]}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
