"""Who listens at a port."""

from __future__ import annotations

import os
import socket

import pytest

from quark_eagle.errors import EngineError
from quark_eagle.serving.ports import free_port, is_anothers, refuse_taken


def test_a_free_port_is_nobodys() -> None:
    port = free_port()
    refuse_taken(port)
    assert not is_anothers(port, [os.getpid()])


def test_a_port_that_is_listened_at_is_refused() -> None:
    said = r"Address already in use.*whoever answers there would be measured"
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(EngineError, match=said):
        refuse_taken(server.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_who_listens_is_told_by_the_socket(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert not is_anothers(port, [1, os.getpid()])
        assert is_anothers(port, [])
        assert is_anothers(port, [os.getppid()])
