"""Ports on the loopback interface: one that is free, and whether who listens there is ours.

Another server may take the port in the moment between our choice and vLLM's bind, and answer there in its place: so the
listening socket is looked up in proc(5), and has to belong to a process of ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from quark_eagle.errors import EngineError

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"  # include/net/tcp_states.h


def free_port() -> int:
    """A port at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def refuse_taken(port: int) -> None:
    """See that a port is free.

    Raises:
        EngineError: somebody listens there, or we may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does: a closed connection may linger
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise EngineError(
                f"{LOOPBACK}:{port}: cannot be listened at ({error.strerror}), but the server needs a port of its own: "
                "whoever answers there would be measured in its place. Stop what listens there, or let a free port be "
                "chosen."
            ) from error


def is_anothers(port: int, pids: Iterable[int]) -> bool:
    """Whether somebody listens at a port, and none of these processes does."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    return bool(sockets) and all(sockets.isdisjoint(_open_files(pid)) for pid in pids)


def _listening(port: int) -> set[str]:
    """Inodes of the sockets that listen at a port, on any address: proc_net_tcp(5)."""
    rows = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net", table)
        if path.is_file():
            rows += [line.split() for line in path.read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port}


def _open_files(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it ended while we looked
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # a file was closed while we looked
                found.add(os.readlink(entry))
    return found
