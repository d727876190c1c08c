from __future__ import annotations

import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from quark_eagle.cli import signals


class Target:
    pass


class Dying:
    def __init__(self, signum: signal.Signals) -> None:
        self.signum = signum

    def __del__(self) -> None:
        signal.raise_signal(self.signum)


def in_a_finalizer(signum: signal.Signals) -> None:
    Dying(signum)


def in_a_weak_reference(signum: signal.Signals) -> None:
    """As in importlib, whose module locks are removed by such a callback."""
    target = Target()
    reference = weakref.ref(target, lambda _: signal.raise_signal(signum))
    del target
    assert reference() is None


SWALLOWED = [in_a_finalizer, in_a_weak_reference]


@pytest.mark.parametrize("swallow", SWALLOWED)
@pytest.mark.parametrize(("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_not_lost_where_no_exception_can_leave(
    swallow: Callable[[signal.Signals], None], signum: signal.Signals, raised: type[BaseException]
) -> None:
    with pytest.raises(raised), signals.raising() as received:  # noqa: PT012 - it is raised while we wait
        swallow(signum)
        assert received == [signum]
        time.sleep(30)

    assert received == [signum, signum]


@pytest.mark.parametrize("swallow", SWALLOWED)
def test_nothing_is_sent_once_the_command_has_ended(swallow: Callable[[signal.Signals], None]) -> None:
    with signals.raising() as received:
        swallow(signal.SIGINT)

    time.sleep(5 * signals.AGAIN_SECONDS)  # Python's own handler would raise here
    assert received == [signal.SIGINT]


def test_what_else_cannot_be_raised_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with signals.raising():
        Broken()

    assert told == [ValueError]


def test_handlers_are_put_back_and_other_threads_have_none() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with signals.raising():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before

    seen: list[object] = []

    def elsewhere() -> None:
        with signals.raising():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before[0]]
