"""Driving a server: prompts as token ids in, answers and what their rounds accepted out, none silently dropped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quark_eagle.serving.answers import (
    BrokenOffError,
    Chunk,
    MalformedAnswerError,
    read_answer,
    read_event,
    read_stream,
)
from quark_eagle.serving.completion import Completion, CompletionRequest, Failure, FailureKind
from quark_eagle.serving.endpoint import describe, require_model, settings

if TYPE_CHECKING:
    import httpx

__all__ = ["Client", "Completion", "CompletionRequest", "Failure", "Outcome"]

Outcome = Completion | Failure
_WATCH_SECONDS = 0.5
_NOTICE_SECONDS = 0.3  # connections break a moment before the death of their process is noticed
_FIRST_PAUSE_SECONDS = 0.5  # before another attempt; doubled for each further one
_PATH = "/v1/completions"


class _Failed(Exception):
    """An attempt came to nothing; `again` says whether another may fare better."""

    def __init__(self, kind: FailureKind, message: str, again: bool) -> None:
        super().__init__(message)
        self.kind = kind
        self.again = again


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A server as seen by who drives it.

    Attributes:
        url: of the server, without a path.
        model: the name that it answers to.
        concurrency: requests under way at once, at most.
        timeout: seconds for one request, from its start to its last token.
        retries: further attempts after the first, for a broken connection, a timeout or a 5xx.
        stream: read answers token by token: gives the time to the first one, and rounds from a server that does not
            account for them.
        num_speculative_tokens: k of the server, which the rounds of a stream need; None without a draft.
        check_alive: raises `EngineError` once the server's process has ended (`VllmServer.check_alive`).
    """

    url: str
    model: str
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 2
    stream: bool = False
    num_speculative_tokens: int | None = None
    check_alive: Callable[[], None] | None = None

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[Outcome], None] | None = None
    ) -> list[Outcome]:
        """Send all requests and wait for every outcome.

        Args:
            requests: are started in this order.
            on_done: is called with each outcome as it comes.

        Returns:
            One outcome per request, in the order of the requests.

        Raises:
            EngineError: the server serves another model, or stopped answering, or its process ended.
        """
        require_model(self.url, self.model)
        return asyncio.run(self._complete(requests, on_done or (lambda outcome: None)))

    async def _complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[Outcome], None]
    ) -> list[Outcome]:
        import httpx

        outcomes: dict[int, Outcome] = {}
        waiting = iter(enumerate(requests))
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        async with httpx.AsyncClient(**settings(self.url, self.timeout), limits=limits) as http:

            async def work() -> None:
                for index, request in waiting:
                    outcomes[index] = await self._one(http, request)
                    on_done(outcomes[index])

            await self._until_done([work() for _ in range(min(self.concurrency, len(requests)))])
        return [outcomes[index] for index in range(len(requests))]

    async def _until_done(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Wait for all workers; the first exception, or the server's death, ends all of them."""
        tasks = {asyncio.ensure_future(worker) for worker in workers}
        try:
            while pending := [task for task in tasks if not task.done()]:
                await asyncio.wait(pending, timeout=_WATCH_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
                for task in tasks:
                    if task.done():
                        task.result()
                self._see_alive()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _see_alive(self) -> None:
        if self.check_alive is not None:
            self.check_alive()

    async def _one(self, http: httpx.AsyncClient, request: CompletionRequest) -> Outcome:
        """One request to its outcome, through all its attempts."""
        attempt = 1
        while True:
            try:
                return await asyncio.wait_for(self._attempt(http, request, attempt), self.timeout)
            except asyncio.TimeoutError:
                failed = _Failed("timeout", f"no answer within {self.timeout:g} s", again=True)
            except _Failed as error:
                failed = error
            if failed.kind == "transport":
                await asyncio.sleep(_NOTICE_SECONDS)
            self._see_alive()
            if not failed.again or attempt > self.retries:
                if failed.kind == "transport":
                    await asyncio.to_thread(require_model, self.url, self.model)  # is anybody there at all?
                return Failure(kind=failed.kind, message=str(failed), attempts=attempt)
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            attempt += 1

    async def _attempt(self, http: httpx.AsyncClient, request: CompletionRequest, attempt: int) -> Completion:
        import httpx

        began = time.perf_counter()
        try:
            async with http.stream("POST", _PATH, json=request.body(self.model, self.stream)) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, (await response.aread()).decode("utf-8", errors="replace"))
                if not self.stream:
                    data = json.loads(await response.aread())
                    return read_answer(data, time.perf_counter() - began, attempt)
                chunks = [
                    Chunk(seconds=time.perf_counter() - began, data=event)
                    async for line in _lines(response.aiter_bytes())
                    if (event := read_event(line)) is not None
                ]
            return read_stream(chunks, attempt, self.num_speculative_tokens)
        except httpx.TimeoutException as error:
            raise _Failed("timeout", describe(error), again=True) from error
        except httpx.HTTPError as error:
            raise _Failed("transport", describe(error), again=True) from error
        except BrokenOffError as error:
            raise _Failed("server", str(error), again=True) from error
        except (MalformedAnswerError, ValueError) as error:
            raise _Failed("malformed", str(error), again=False) from error


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines that end in a line feed; httpx's own end at U+2028 and U+0085 too, which JSON leaves inside strings."""
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.decode("utf-8").removesuffix("\r")
    yield rest.decode("utf-8")


def _refusal(status: int, text: str) -> _Failed:
    said = f"{status}: {text[:300]}"
    if status >= 500 or status == 429:
        return _Failed("server", said, again=True)
    return _Failed("refused", said, again=False)
