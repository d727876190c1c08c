"""Where a job's files lie, as its commands name them: relative to the recipe, in whose directory they are run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quark_eagle.job.contradictions import Finding
from quark_eagle.job.recipe import Recipe

HUB_ID_PARTS = 2  # owner/name
MAX_NAME, MAX_PATH = 255, 4095  # bytes; linux/limits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Names of everything that a job writes, whether or not it does.

    Attributes:
        directory: of all that is not named apart, and of the ledger.
        trace: recorded or given.
        calibration_trace: recorded or given.
        fp8: made or given.
        parity: counts that quantizing leaves beside ``fp8``.
        first_verdict: that quantizing leaves there.
        calibration: that quantizing leaves there.
        measured: counts of what is measured apart from quantizing.
        verdict: of the gate.
        junit: of the gate; None if it is not wanted.
        markdown: of the gate; None if it is not wanted.
        plot: of `explain`; None if it is not wanted.
        bundle: what is released.
    """

    directory: str
    trace: str
    calibration_trace: str
    fp8: str
    parity: str
    first_verdict: str
    calibration: str
    measured: str
    verdict: str
    junit: str | None
    markdown: str | None
    plot: str | None
    bundle: str

    @classmethod
    def of(cls, recipe: Recipe) -> Places:
        """As the recipe says, or else under their own names in its directory."""
        named = recipe.outputs
        directory = expanded(named.directory)

        def place(said: str | None, otherwise: str) -> str:
            return os.path.join(directory, otherwise) if said is None else expanded(said)

        fp8 = expanded(recipe.fp8) if recipe.fp8 is not None else place(named.fp8, "fp8")
        return cls(
            directory=directory,
            trace=expanded(recipe.trace) if recipe.trace is not None else place(named.trace, "trace"),
            calibration_trace=(
                expanded(recipe.calibration.trace)
                if recipe.calibration.trace is not None
                else place(named.calibration_trace, "calibration-trace")
            ),
            fp8=fp8,
            parity=f"{fp8}.parity.json",
            first_verdict=f"{fp8}.verdict.json",
            calibration=f"{fp8}.calibration.json",
            measured=place(named.parity, "served.parity.json" if recipe.serves else "parity.json"),
            verdict=place(named.verdict, "verdict.json"),
            junit=_optional(named.junit),
            markdown=_optional(named.markdown),
            plot=_optional(named.plot),
            bundle=place(named.bundle, "bundle"),
        )

    def ledger(self, recipe: Path) -> Path:
        """Where the ledger of a recipe's file lies: each recipe has its own, also in a directory that several share."""
        return recipe.absolute().parent / self.directory / f"{recipe.stem}.ledger.json"


def expanded(path: str) -> str:
    """A path as the shell would have given it."""
    return os.path.expanduser(path.rstrip("/") or "/")


def _optional(path: str | None) -> str | None:
    return None if path is None else expanded(path)


def is_hub_id(name: str, base: Path) -> bool:
    """Whether a model is named by its Hugging Face id: ``owner/name``, and beside the recipe is nothing of the name.

    A directory ``owner`` that is there without a ``name`` in it is a slip of the pen more often than a namesake.
    """
    parts = name.partition("@")[0].split("/")
    spelled = len(parts) == HUB_ID_PARTS and all(part and part[0].isalnum() for part in parts)
    return spelled and not os.path.exists(base / parts[0])


def unpinned(recipe: Recipe, base: Path) -> list[str]:
    """Hugging Face ids without a revision: they count by their name, whatever their branch holds today."""
    models = (recipe.draft, recipe.target, recipe.fp8)
    return [name for name in models if name is not None and "@" not in name and is_hub_id(name, base)]


def missing_inputs(recipe: Recipe, base: Path) -> list[Finding]:
    """What the recipe names and is not there. A Hugging Face id is looked for when its step comes."""
    models = {("draft",): recipe.draft, ("target",): recipe.target, ("fp8",): recipe.fp8}
    directories = {("trace",): recipe.trace, ("calibration", "trace"): recipe.calibration.trace}
    files = {
        ("prompts", "file"): recipe.prompts.file,
        ("calibration", "file"): recipe.calibration.file,
        ("engine", "python"): recipe.engine.python,
        ("engine", "bin"): recipe.engine.bin,
    }
    several: list[tuple[tuple[str, ...], str]] = []
    if recipe.release is not None:
        files[("release", "signing_key")] = recipe.release.signing_key
        files[("release", "public_key")] = recipe.release.public_key
        files[("release", "signing_certificate")] = recipe.release.signing_certificate
        files[("release", "verdict")] = recipe.release.verdict
        files[("release", "calibration")] = recipe.release.calibration
        several = [(("release", "evidence"), path) for path in recipe.release.evidence]
        several += [(("release", "certificate_chain"), path) for path in recipe.release.certificate_chain]
    found = []
    for place, name in (*models.items(), *directories.items(), *files.items(), *several):
        if name is None or (place in models and is_hub_id(name, base)):
            continue
        path = base / expanded(name)
        wants_directory = place in models or place in directories
        if not os.path.exists(path):  # which is False of what no file system can hold
            found.append((place, f"{path}: does not exist. Paths are relative to the recipe. Correct it."))
        elif path.is_dir() != wants_directory:
            needed = "a directory" if wants_directory else "a file"
            found.append((place, f"{path}: {needed} was needed. Correct it."))
    return found


def unusable_outputs(recipe: Recipe, base: Path) -> list[Finding]:
    """Outputs that cannot be written: no permission, one place for two, inside an input, or a directory in its way."""
    return [*_unwritable(recipe, base), *_shared(recipe, base)]


def _outputs(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every output that the job has a place for, under the key that would name it."""
    places = Places.of(recipe)
    for name in ("trace", "calibration_trace", "fp8", "verdict", "junit", "markdown", "plot", "bundle"):
        path = getattr(places, name)
        is_given = {
            "trace": recipe.trace is not None,
            "calibration_trace": recipe.calibration.trace is not None,
            "fp8": recipe.fp8 is not None,
        }.get(name, False)
        if path is not None and not is_given:
            yield ("outputs", name), path
    yield ("outputs", "parity"), places.measured


def _unwritable(recipe: Recipe, base: Path) -> Iterator[Finding]:
    told: set[Path] = set()
    for place, path in ((("outputs", "directory"), Places.of(recipe).directory), *_outputs(recipe)):
        if _too_long(base / path):
            yield place, f"{path[:60]}…: is longer than a file system takes, {MAX_NAME} bytes for a name. Name another."
            continue
        nearest = (base / path).parent if place[1] != "directory" else base / path
        while not nearest.exists():
            nearest = nearest.parent
        if nearest in told or (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            continue
        told.add(nearest)
        why = "may not be written to" if nearest.is_dir() else "is a file, but a directory was needed"
        yield place, f"{base / path}: cannot be written, since {nearest} {why}. Name another place."


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > MAX_PATH or any(len(os.fsencode(part)) > MAX_NAME for part in path.parts)


def _shared(recipe: Recipe, base: Path) -> Iterator[Finding]:
    taken: dict[str, str] = {}
    inputs = {"draft": recipe.draft, "target": recipe.target, "trace": recipe.trace, "fp8": recipe.fp8}
    for name, given in inputs.items():
        if given is not None and not is_hub_id(given, base):
            taken[os.path.realpath(base / expanded(given))] = name
    for place, path in _outputs(recipe):
        real = os.path.realpath(base / path)
        other = next((name for there, name in taken.items() if real == there or real.startswith(f"{there}/")), None)
        if other is not None:
            yield place, f"{base / path}: is {other}, or inside it, but a place of its own was needed. Name another."
        taken[real] = f"outputs.{place[1]}"
