"""The steps of a job: a table that follows from the recipe alone.

    doctor · inspect · trace · calibration-trace · quantize · verify · parity · gate · explain · plan-prompts · recipe
    · release · verify-release

`quantize` verifies, replays, decides and publishes by itself where there is something to measure on, so its counts lie
beside its output, and `parity` is a step of its own only where the draft is served, or was there already. What gates is
what an engine did, if one was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quark_eagle.job.places import Places, expanded
from quark_eagle.job.recipe import Recipe
from quark_eagle.job.step import Step

TOO_LITTLE = "Too little was measured to decide: `quark-eagle plan-prompts {}` says how many prompts would. "
MORE_PROMPTS = TOO_LITTLE + "Raise prompts.limit."
DATE_VARIABLE = "SOURCE_DATE_EPOCH"  # the day of a release, as reproducible-builds.org has it
LOST = "Acceptance was lost beyond the margin: `quark-eagle explain {}` says where. Keep more modules, and run again."


def steps(recipe: Recipe) -> tuple[Step, ...]:
    """Every step of the job, in order; none reads what a later one writes."""
    return tuple(_steps(_Job(recipe)))


class _Job:
    """A recipe and its places, with what several steps say."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.places = Places.of(recipe)
        self.draft = None if recipe.draft is None else expanded(recipe.draft)
        self.target = None if recipe.target is None else expanded(recipe.target)

    @property
    def counts(self) -> str:
        """What the gate judges."""
        separate = self.recipe.serves or not self.recipe.quantizes
        return self.places.measured if separate else self.places.parity

    @property
    def goes_on_after(self) -> tuple[int, ...]:
        """Exit codes of a verdict after which the job goes on: a no as well, if it is published in spite of it."""
        return (0, 3, 4) if self.recipe.gate.publish_anyway else (0,)

    @property
    def evidence(self) -> tuple[str, ...]:
        """What a release shows: what was judged, and replay's counts too where that was served."""
        release = self.recipe.release
        if release is not None and release.evidence:
            return tuple(map(expanded, release.evidence))
        return (self.counts, self.places.parity) if self.recipe.serves and self.recipe.quantizes else (self.counts,)

    @property
    def engine(self) -> dict[str, Any]:
        """Options that every command takes which runs vLLM on the target."""
        engine = self.recipe.engine
        return {
            "gpu": engine.gpu,
            "tensor_parallel_size": engine.tensor_parallel_size,
            "vllm_option": engine.options,
            "vllm_python": _path(engine.python),
            "vllm_bin": _path(engine.bin),
        }

    @property
    def sampling(self) -> dict[str, Any]:
        """How prompts are chosen and answered."""
        prompts = self.recipe.prompts
        return {
            "prompts": _path(prompts.file),
            "split": prompts.split,
            "limit": prompts.limit,
            "max_tokens": prompts.max_tokens,
            "temperature": prompts.temperature,
            "top_p": prompts.top_p,
            "seed": prompts.seed,
        }


def _steps(job: _Job) -> Iterator[Step]:
    recipe, show = job.recipe, set(job.recipe.show)
    if "doctor" in show:
        yield _doctor(job)
    if "inspect" in show:
        yield _shown(job, "inspect", "What is the draft, and what would FP8 do to it?", [str(job.draft)], [job.draft])
    if recipe.records:
        yield _trace(job)
    if recipe.calibrates and recipe.calibration.trace is None:
        yield _calibration_trace(job)
    if recipe.quantizes:
        yield _quantize(job)
    if not recipe.given_evidence:
        yield _verify(job)
    if recipe.measures:
        if recipe.serves or not recipe.quantizes:
            yield _parity(job)
        yield _gate(job)
        if "explain" in show or job.places.plot is not None:
            yield _explain(job)
        if "plan-prompts" in show:
            arguments = [job.counts, *options(margin=recipe.gate.margin, alpha=recipe.gate.alpha)]
            heading = "How many prompts would other margins need?"
            yield _shown(job, "plan-prompts", heading, arguments, [job.counts])
    if "recipe" in show:
        arguments = [str(job.target), job.places.fp8, *_how_served(job)]
        yield _shown(job, "recipe", "How is it served?", arguments, [job.target, job.places.fp8])
    if recipe.release is not None:
        yield from (_release(job), _verify_release(job))


def options(**said: Any) -> Iterator[str]:
    """Options as they are typed, of what was said; what was not is left to the command's own default.

    >>> list(options(margin=0.01, keep=("a", "b"), overwrite=True, limit=None, quantize_fc=False))
    ['--margin', '0.01', '--keep', 'a', '--keep', 'b', '--overwrite']
    """
    for name, value in said.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            yield option
        elif isinstance(value, tuple):
            for each in value:
                yield from (option, each)
        elif value is not None and value is not False:
            yield from (option, str(value))


def _reads(*paths: str | None) -> tuple[str, ...]:
    return tuple(path for path in paths if path is not None)


def _path(said: str | None) -> str | None:
    return None if said is None else expanded(said)


def _shown(job: _Job, name: str, heading: str, arguments: list[str], reads: list[str | None]) -> Step:
    return Step(name=name, heading=heading, arguments=(name, *arguments), reads=_reads(*reads))


def _doctor(job: _Job) -> Step:
    engine, prompts = job.recipe.engine, job.recipe.prompts
    arguments = options(
        target=job.target,
        draft=job.draft,
        gpu=engine.gpu,
        tensor_parallel_size=engine.tensor_parallel_size,
        vllm_python=_path(engine.python),
        prompts=prompts.limit,
        osl=prompts.max_tokens,
        output=job.places.directory,
    )
    return Step(
        name="doctor",
        heading="What can this machine do, and what does it lack?",
        arguments=("doctor", *arguments),
        reads=_reads(job.target, job.draft),
        next=((3, "Do what the lines marked as errors say, and run again."),),
    )


def _how_served(job: _Job) -> Iterator[str]:
    engine = job.recipe.engine
    return options(
        gpu=engine.gpu,
        tensor_parallel_size=engine.tensor_parallel_size,
        num_speculative_tokens=job.recipe.num_speculative_tokens,
        trust_remote_code=engine.trust_remote_code,
    )


def _recorded(job: _Job, output: str, *, anchored: bool, **said: Any) -> tuple[str, ...]:
    """A recording's command line."""
    recipe, recording = job.recipe, job.recipe.recording
    is_vllm = recipe.engine.name == "vllm"
    more = options(
        draft=job.draft,
        output=output,
        **said,
        dtype=recording.dtype,
        state_dtype=recording.state_dtype,
        batch_size=recording.batch_size,
        device=recording.device,
        trust_remote_code=recipe.engine.trust_remote_code,
        engine="vllm" if is_vllm else None,
        **(job.engine if is_vllm else {}),
        num_speculative_tokens=recipe.num_speculative_tokens if is_vllm and anchored else None,
        no_anchor=is_vllm and not anchored,
    )
    return ("trace", str(job.target), *more)


def _trace(job: _Job) -> Step:
    recording = job.recipe.recording
    said = {**job.sampling, "project": recording.project}
    return Step(
        name="trace",
        heading="Run the target once; keep its path and hidden states",
        arguments=_recorded(job, job.places.trace, anchored=recording.anchor, **said),
        reads=_reads(job.target, job.draft, _path(job.recipe.prompts.file)),
        writes=(job.places.trace,),
        resumes=True,
        next=((3, "Replay is not what was served, so nothing can be judged on this trace."),),
    )


def _calibration_trace(job: _Job) -> Step:
    calibration = job.recipe.calibration
    said = {
        "prompts": _path(calibration.file),
        "split": "calibration",
        "limit": calibration.limit,
        "max_tokens": calibration.max_tokens,
    }
    return Step(
        name="calibration-trace",
        heading="The same over the calibration prompts, which are judged on nowhere",
        arguments=_recorded(job, job.places.calibration_trace, anchored=False, **said),
        reads=_reads(job.target, job.draft, _path(calibration.file)),
        writes=(job.places.calibration_trace,),
        resumes=True,
    )


def _quantize(job: _Job) -> Step:
    recipe, places = job.recipe, job.places
    calibration = recipe.calibration
    said = options(
        output=places.fp8,
        scheme=recipe.quantize.scheme,
        format=recipe.quantize.format,
        keep=recipe.quantize.keep,
        quantize_fc=recipe.quantize.quantize_fc,
        calibration=places.calibration_trace if recipe.calibrates else None,
        observer=calibration.observer,
        percentile=calibration.percentile,
        calib_tokens=calibration.tokens,
        kv_cache_scales=calibration.kv_cache_scales,
        trace=places.trace if recipe.measures else None,
        margin=recipe.gate.margin if recipe.measures else None,
        publish_anyway=recipe.gate.publish_anyway,
        num_speculative_tokens=recipe.num_speculative_tokens if recipe.measures or recipe.calibrates else None,
        device=recipe.device,
    )
    measured = (places.parity, places.first_verdict) if recipe.measures else ()
    return Step(
        name="quantize",
        heading="Quantize with AMD Quark" + ("; published only if acceptance is at par" if recipe.measures else ""),
        arguments=("quantize", str(job.draft), *said),
        reads=_reads(
            job.draft,
            places.trace if recipe.measures else None,
            places.calibration_trace if recipe.calibrates else None,
        ),
        writes=(places.fp8, *measured, *((places.calibration,) if recipe.calibrates else ())),
        goes_on_after=job.goes_on_after,
        next=((3, LOST.format(places.parity)), (4, MORE_PROMPTS.format(places.parity))),
    )


def _verify(job: _Job) -> Step:
    recipe = job.recipe
    asked: dict[str, Any] = {}
    if recipe.serves:
        asked = {"engine": "vllm", "vllm_python": _path(recipe.engine.python), "vllm_bin": _path(recipe.engine.bin)}
    return Step(
        name="verify",
        heading="What will vLLM do with every module of the result?",
        arguments=("verify", job.places.fp8, *options(source=job.draft, **asked)),
        reads=_reads(job.places.fp8, job.draft),
        next=((3, "An engine would misread this draft. Quantize it anew; what is wrong is marked above."),),
    )


def _parity(job: _Job) -> Step:
    recipe, places = job.recipe, job.places
    engine = recipe.engine
    if recipe.serves:
        said = {
            "engine": "vllm",
            "target": job.target,
            **job.sampling,
            **job.engine,
            "blocks": engine.blocks,
            "concurrency": engine.concurrency,
            "deterministic": engine.deterministic,
            "one_at_a_time": engine.one_at_a_time,
            "devices": engine.devices,
            "ready_seconds": engine.ready_seconds,
            "trust_remote_code": engine.trust_remote_code,
        }
        reads = _reads(job.draft, places.fp8, job.target, _path(recipe.prompts.file))
    else:
        said = {"trace": places.trace, "device": recipe.device}
        reads = _reads(job.draft, places.fp8, places.trace)
    k = recipe.num_speculative_tokens
    more = options(output=places.measured, num_speculative_tokens=k, **said)
    return Step(
        name="parity",
        heading="Acceptance of the FP8 draft beside its BF16 original" + (", served" if recipe.serves else ""),
        arguments=("parity", str(job.draft), places.fp8, *more),
        reads=reads,
        writes=(places.measured,),
    )


def _gate(job: _Job) -> Step:
    gate, places = job.recipe.gate, job.places
    rules = {name: getattr(gate, name) for name in type(gate).model_fields if name != "publish_anyway"}
    files = {"output": places.verdict, "junit": places.junit, "markdown": places.markdown}
    return Step(
        name="gate",
        heading="May it ship? The exit code says",
        arguments=("gate", job.counts, *options(**rules, **files)),
        reads=(job.counts,),
        writes=_reads(*files.values()),
        goes_on_after=job.goes_on_after,
        next=((3, LOST.format(job.counts)), (4, MORE_PROMPTS.format(job.counts))),
    )


def _explain(job: _Job) -> Step:
    plot = job.places.plot
    return Step(
        name="explain",
        heading="Where was acceptance lost?",
        arguments=("explain", job.counts, *options(plot=plot)),
        reads=(job.counts,),
        writes=_reads(plot),
    )


def _release(job: _Job) -> Step:
    recipe, places = job.recipe, job.places
    release = recipe.release
    assert release is not None  # _steps
    verdict = places.verdict if recipe.measures else _path(release.verdict)
    trace = places.trace if recipe.measures or recipe.trace is not None else None
    key, certificate = _path(release.signing_key), _path(release.signing_certificate)
    chain = tuple(map(expanded, release.certificate_chain))
    certificates = _reads(certificate, *chain)
    target = job.target if recipe.given_evidence else None  # one that is recorded here is the evidence's own
    said = options(
        evidence=job.evidence,
        verdict=verdict,
        source=job.draft,
        trace=trace,
        output=places.bundle,
        name=release.name,
        repo_id=release.repo_id,
        base_model=release.base_model,
        license=release.license,
        target_name=release.target_name,
        require_arch=release.require_arch,
        publish_anyway=recipe.gate.publish_anyway,
        target=target,
        calibration=_path(release.calibration),
        margin=recipe.gate.margin if recipe.given_evidence else None,
        signing_key=key,
        signing_password_env=release.signing_password_env,
        signing_certificate=certificate,
        certificate_chain=chain,
        keyless=release.keyless,
    )
    beside = places.calibration if recipe.calibrates else _path(release.calibration)
    return Step(
        name="release",
        heading="The draft with its evidence, as it is published",
        arguments=("release", places.fp8, *said),
        reads=_reads(places.fp8, *job.evidence, verdict, job.draft, target, trace, beside, *certificates),
        secrets=_reads(key),
        variables=(DATE_VARIABLE,),
        writes=(places.bundle,),
        next=((3, "The evidence does not allow a release; the message above says what is missing."),),
    )


def _verify_release(job: _Job) -> Step:
    release, bundle = job.recipe.release, job.places.bundle
    assert release is not None  # _steps
    key, chain = _path(release.public_key), tuple(map(expanded, release.certificate_chain))
    trusted = options(
        public_key=key,
        certificate_chain=chain,
        identity=release.identity,
        identity_provider=release.identity_provider,
    )
    return Step(
        name="verify-release",
        heading="Does the bundle hold together, as anyone can check it?",
        arguments=("verify-release", bundle, *trusted),
        reads=_reads(bundle, key, *chain),
        next=((3, "The bundle is not what it says. Remove it, and run again."),),
    )
