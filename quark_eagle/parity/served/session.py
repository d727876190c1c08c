"""Session: the servers of a schedule, started, compared, driven and stopped, whatever happens in between.

What comes out is one `PassResult` for each turn, and what every server said of itself. Nothing is judged here but that
the arms may be compared at all: the same settings, the same prompts token for token, counters that agree with answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from threading import Event

from quark_eagle.documents.served import ServedArmName
from quark_eagle.errors import EngineError, findings
from quark_eagle.parity.served.arms import Arms
from quark_eagle.parity.served.schedule import Schedule, Stage, Turn
from quark_eagle.parity.served.voice import Voice, reasons_against
from quark_eagle.parity.side import Side
from quark_eagle.progress import SILENT, Progress
from quark_eagle.serving.client import Client, Outcome
from quark_eagle.serving.completion import Completion, CompletionRequest
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.http_facts import facts_over_http
from quark_eagle.serving.metrics import Counters, reconcile, vouched_for
from quark_eagle.serving.rendering import render
from quark_eagle.serving.server import VllmServer
from quark_eagle.trace.prompts import PromptSet
from quark_eagle.trace.trace_document import Sampling

LOGPROBS = 10  # of the run without speculation: by how much the target preferred its own token to another
_WARM_UP_TOKENS = 4
_NAMED = 5

Rendering = Mapping[str, tuple[int, ...]]
OnTurn = Callable[["PassResult", float], None]
"""Is told of each turn that is done, with the seconds that all others will take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driving:
    """How servers are started and asked.

    Attributes:
        sampling: of every request; a seed is sent where the engine takes one.
        concurrency: requests under way at once, at most.
        retries: further attempts of a request that failed.
        ready_seconds: after which a server that does not serve yet is given up.
        request_seconds: after which an attempt is.
        sends_seed: vLLM's CPU worker dies of seeds.
    """

    sampling: Sampling
    concurrency: int = 16
    retries: int = 2
    ready_seconds: float = 1800.0
    request_seconds: float = 600.0
    sends_seed: bool = False

    def request(self, token_ids: Sequence[int], turn: Turn) -> CompletionRequest:
        """One prompt's request in a turn; both arms of a block send the same."""
        sampling = self.sampling
        return CompletionRequest(
            prompt_token_ids=token_ids,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + turn.block if self.sends_seed and not sampling.is_greedy else None,
            top_logprobs=LOGPROBS if turn.arm == "none" else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What one turn brought.

    Attributes:
        outcomes: of every prompt by id.
        counters: what `/metrics` grew by; None where nothing speculates.
    """

    turn: Turn
    outcomes: Mapping[str, Outcome]
    counters: Counters | None
    seconds: float


@dataclass(slots=True, kw_only=True)
class Session:
    """A schedule on its way.

    Attributes:
        arms: commands of the servers; None where they were given.
        given: addresses of servers that run already, by arm.
        drafts: that the arms are named for.
        voices: every server that spoke, in the order of their starts.
        rendering: the prompts as token ids, the same for all arms.
        results: of the turns so far.
        over: that it was interrupted, or a turn failed.
    """

    engine: Engine | None
    arms: Arms | None
    given: Mapping[ServedArmName, str]
    drafts: Mapping[ServedArmName, Side]
    prompts: PromptSet
    num_speculative_tokens: int
    driving: Driving
    logs: Path
    progress: Progress = SILENT
    voices: list[Voice] = field(default_factory=list)
    rendering: Rendering = field(default_factory=dict)
    results: list[PassResult] = field(default_factory=list)
    over: Event = field(default_factory=Event)

    def run(self, schedule: Schedule, on_turn: OnTurn | None = None) -> None:
        """Every stage, one after the other.

        Raises:
            EngineError: a server did not start, died, or may not be compared with the others; all are stopped.
        """
        for stage in schedule.stages:
            with self._alive(stage) as voices:
                for step in stage.steps:
                    done = self._step(step, voices, schedule.num_blocks)
                    self.results += done
                    if on_turn is not None:
                        for result in done:
                            on_turn(result, self._seconds_left(schedule))

    def _seconds_left(self, schedule: Schedule) -> float:
        """From the mean of what was done so far; turns of one step run at the same time."""
        loads = [voice.server.ready_seconds for voice in self.voices if voice.server is not None]
        turns = [len(step) for stage in schedule.stages for step in stage.steps]
        steps_left = len(turns) * (1 - len(self.results) / sum(turns))
        asking = steps_left * fmean(it.seconds for it in self.results)
        return asking + (schedule.num_loads - len(self.voices)) * (fmean(loads) if loads else 0.0)

    @contextmanager
    def _alive(self, stage: Stage) -> Iterator[Mapping[ServedArmName, Voice]]:
        """The servers of a stage, ready to be asked."""
        with ExitStack() as stack:
            voices: dict[ServedArmName, Voice] = {}
            for arm, devices in stage.arms.items():
                voices[arm] = self._given(arm) if arm in self.given else self._started(arm, devices, stack)
                self._require_comparable(voices[arm])
                self._render(voices[arm])
                voices[arm] = replace(voices[arm], streams=self._warm_up(voices[arm]))
                self.voices.append(voices[arm])
            yield voices

    def _started(self, arm: ServedArmName, devices: str | None, stack: ExitStack) -> Voice:
        assert self.engine is not None
        assert self.arms is not None
        command = self.arms.command(arm, devices)
        log = self.logs / f"{len(self.voices)}-{arm}.log"
        server = VllmServer.start(
            self.engine, command, log, ready_seconds=self.driving.ready_seconds, progress=self.progress
        )
        stack.callback(server.stop)
        return Voice(
            arm=arm,
            url=server.url,
            model=server.model,
            facts=server.facts(),
            draft=self.drafts.get(arm),
            server=server,
            devices=devices,
        )

    def _given(self, arm: ServedArmName) -> Voice:
        from quark_eagle.serving.endpoint import served_models

        url = self.given[arm]
        models = served_models(url)
        if len(models) != 1:
            raise EngineError(f"{url}: serves {', '.join(models) or 'nothing'}, but one model was needed.")
        return Voice(arm=arm, url=url, model=models[0], facts=facts_over_http(url), draft=self.drafts.get(arm))

    def _require_comparable(self, voice: Voice) -> None:
        """See that a server speaks for its draft, and that it differs from the others in its draft alone.

        Raises:
            EngineError: it does not; all reasons are listed.
        """
        problems = reasons_against(voice, self.voices, self.num_speculative_tokens)
        if problems:
            advice = "What it accepts cannot be counted. Serve each arm's own draft, and both with the same settings."
            raise EngineError(findings(f"{voice.url} ({voice.arm})", [f"{it}." for it in problems], advice))

    def _render(self, voice: Voice) -> None:
        """The prompts as the first server renders them; every other one has to agree, token for token.

        Raises:
            EngineError: it does not.
        """
        found = render(voice.url, voice.model, {prompt.id: prompt.chat for prompt in self.prompts})
        if not self.rendering:
            self.rendering = found
        differ = [name for name, tokens in self.rendering.items() if found[name] != tokens]
        if differ:
            raise EngineError(
                f"{voice.url} ({voice.arm}): renders {len(differ)} of {len(found)} prompts as other tokens than "
                f"{self.voices[0].arm}'s server did: {', '.join(differ[:_NAMED])}. The arms would be asked different "
                "questions. Serve them with the same tokenizer and chat template."
            )

    def _warm_up(self, voice: Voice) -> bool:
        """Two short answers, outside of all counts: the first ones compile and allocate.

        Returns:
            Whether the server leaves it to the pieces of a streamed answer to tell what its rounds accepted.
        """
        turn = Turn(arm=voice.arm, block=0)
        requests = [self.driving.request(tokens, turn) for tokens in list(self.rendering.values())[:2]]
        outcomes = self._client(voice).complete([replace(it, max_tokens=_WARM_UP_TOKENS) for it in requests])
        return voice.arm != "none" and any(isinstance(it, Completion) and it.reported is None for it in outcomes)

    def _client(self, voice: Voice) -> Client:
        driving = self.driving

        def check() -> None:
            if self.over.is_set():
                raise EngineError("The measurement is over.")
            if voice.server is not None:
                voice.server.check_alive()

        return Client(
            url=voice.url,
            model=voice.model,
            concurrency=driving.concurrency,
            timeout=driving.request_seconds,
            retries=driving.retries,
            stream=voice.streams,
            num_speculative_tokens=None if voice.arm == "none" else self.num_speculative_tokens,
            check_alive=check,
        )

    def _step(self, step: Sequence[Turn], voices: Mapping[ServedArmName, Voice], num_blocks: int) -> list[PassResult]:
        """The turns of one step, at the same time where there are several; the first error ends all of them."""
        arms = " and ".join(turn.arm for turn in step)
        what = "ask the target alone" if arms == "none" else f"ask {arms}, block {step[0].block + 1} of {num_blocks}"
        with (
            self.progress.task(what, len(self.rendering) * len(step), "prompt") as task,
            ThreadPoolExecutor(len(step)) as pool,
        ):
            asked = [pool.submit(self._pass, turn, voices[turn.arm], lambda outcome: task.advance(1)) for turn in step]
            try:
                for future in wait(asked, return_when=FIRST_EXCEPTION).done:
                    future.result()  # raises what it raised, while the other may still wait for answers
                return [future.result() for future in asked]
            except BaseException:
                self.over.set()  # a turn that still waits for answers gives up, before the pool is waited for
                raise

    def _pass(self, turn: Turn, voice: Voice, on_done: Callable[[Outcome], None]) -> PassResult:
        """All prompts once, in an order that is the block's.

        Raises:
            EngineError: the server died, or its counters do not agree with its answers.
        """
        names = list(self.rendering)
        random.Random(turn.block).shuffle(names)
        requests = [self.driving.request(self.rendering[name], turn) for name in names]
        before = None if turn.arm == "none" else Counters.read(voice.url)
        began = time.perf_counter()
        outcomes = self._client(voice).complete(requests, on_done)
        seconds = time.perf_counter() - began
        counters = None if before is None else Counters.read(voice.url) - before
        problems = () if counters is None else reconcile(counters, outcomes)
        if problems:
            raise EngineError(
                findings(
                    f"{voice.url} ({turn}): its counters do not agree with its answers",
                    [f"{problem}." for problem in problems],
                    "Somebody else may use this server, or it does not count as vLLM does. Use one of its own.",
                )
            )
        return PassResult(
            turn=turn, outcomes=dict(zip(names, vouched_for(outcomes), strict=True)), counters=counters, seconds=seconds
        )
