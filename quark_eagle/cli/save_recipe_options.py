"""`--save-recipe`: a command line as a recipe for `quark-eagle run`, which does the same job step by step."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

SaveRecipeOption = Annotated[
    Path | None,
    typer.Option(
        "--save-recipe",
        metavar="FILE",
        help="Write this job as a recipe for `quark-eagle run`, before it begins.",
        show_default=False,
    ),
]

Content = dict[str, Any]

SERVED = (
    "Both drafts are served in a step of its own, and the gate judges what was served: where that leaves open what "
    "replay decided, `run` ends with 4 and `quantize` would have published."
)


def save_recipe(context: typer.Context, path: Path | None) -> None:
    """Write the command that is being run as a recipe, if that was asked for.

    Raises:
        UsageError: the file exists and --overwrite was not given, or the command says what no recipe can.
        StorageError: it cannot be written.
    """
    if path is None:
        return
    from quark_eagle.documents.base import refuse_existing, write_text
    from quark_eagle.errors import UsageError, findings
    from quark_eagle.job.contradictions import contradictions
    from quark_eagle.job.recipe import Recipe
    from quark_eagle.job.writing import to_toml

    given = {
        name: value
        for name, value in context.params.items()
        if str(getattr(context.get_parameter_source(name), "name", "")) not in ("DEFAULT", "")
    }
    refuse_existing(path, overwrite=bool(given.get("overwrite")))
    said = _Said(given, path.absolute())
    recipe = Recipe.model_validate(RECIPES[str(context.info_name)](said))
    found = contradictions(recipe)
    if found:
        problems = [f"{'.'.join(place)}: {sentence}" for place, sentence in found]
        raise UsageError(findings("--save-recipe", problems, "Nothing was done. Leave --save-recipe out, or the rest."))
    comment = f"{shlex.join(['quark-eagle', *sys.argv[1:]])}\nRun it with: quark-eagle run {path.name}"
    served = f"\n{SERVED}" if recipe.serves else ""
    if recipe.release is not None and recipe.release.public_key is not None:
        half = said.directory / recipe.release.public_key
        refuse_existing(half, overwrite=bool(given.get("overwrite")))
        write_text(half, _public_half(given))
    write_text(path, to_toml(recipe, comment + served))


def _public_half(given: Mapping[str, Any]) -> str:
    """Of the key that signs: with it, `run` verifies what it has released."""
    from quark_eagle.release.signature import PrivateKey, password_in, public_half

    variable = given.get("signing_password_env")
    password = None if variable is None else password_in(variable)
    return public_half(PrivateKey(path=given["signing_key"], password=password)).decode()


class _Said:
    """Options as they were given, with paths as the recipe names them."""

    def __init__(self, given: Mapping[str, Any], recipe: Path) -> None:
        self.given = given
        self.name = recipe.stem
        self.directory = recipe.parent

    def take(self, **names: str) -> Content:
        """Options under a recipe's names: ``key=option``; those that were not given are left out."""
        return {key: _plain(self.given[option]) for key, option in names.items() if _is_said(self.given.get(option))}

    def paths(self, **names: str) -> Content:
        """The same of paths."""
        return {key: self._relative(value) for key, value in self.take(**names).items()}

    def model(self, option: str, revision: str = "") -> str:
        """A draft or a target: a path, or a Hugging Face id with its revision."""
        from quark_eagle.checkpoint.source import at_revision, is_hub_id

        name = str(self.given[option])
        if is_hub_id(name):
            return at_revision(name, self.given.get(revision))
        return str(self._relative(name))

    def _relative(self, value: Any) -> Any:
        """Relative to the recipe if it lies below it, so that both can be moved together; else absolute."""
        if isinstance(value, tuple):
            return tuple(map(self._relative, value))
        absolute = os.path.abspath(Path(value).expanduser())
        inside = Path(absolute).is_relative_to(self.directory)
        return os.path.relpath(absolute, self.directory) if inside else absolute


def _is_said(value: Any) -> bool:
    return value is not None and value is not False and value != []


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def _of_quantize(said: _Said) -> Content:
    """`quantize`: what it records by itself is a step of its own here, into the same places."""
    measures = said.given.get("target") is not None or said.given.get("trace") is not None
    content: Content = {"draft": said.model("draft", "revision"), **said.paths(trace="trace")}
    if said.given.get("target") is not None:
        content["target"] = said.model("target")
    content |= said.take(num_speculative_tokens="num_speculative_tokens", device="device")
    content["quantize"] = said.take(scheme="scheme", format="format", keep="keep", quantize_fc="quantize_fc")
    content["calibration"] = {
        **said.paths(trace="calibration"),
        **said.take(observer="observer", percentile="percentile", tokens="calib_tokens"),
        **said.take(kv_cache_scales="kv_cache_scales"),
    }
    content["outputs"] = _beside(said)
    if measures:
        content["prompts"] = said.take(limit="limit")
        content["gate"] = said.take(margin="margin", publish_anyway="publish_anyway")
        content["engine"] = _engine(said)
    is_calibrated = content["quantize"].get("scheme", "ptpc_fp8") != "ptpc_fp8" or said.given.get("kv_cache_scales")
    if is_calibrated and "target" in content and "trace" not in content["calibration"]:
        content["calibration"] |= said.take(limit="limit")
    return {key: value for key, value in content.items() if value != {}}


def _engine(said: _Said) -> Content:
    return {
        **said.take(name="engine", gpu="gpu", tensor_parallel_size="tensor_parallel_size", options="vllm_option"),
        **said.paths(python="vllm_python", bin="vllm_bin"),
        **said.take(blocks="blocks", concurrency="concurrency", devices="devices"),
        **said.take(ready_seconds="ready_seconds", trust_remote_code="trust_remote_code"),
    }


def _beside(said: _Said) -> Content:
    """Everything beside OUT, as `quantize` has it."""
    if said.given.get("output") is None:
        return {}
    out = said.paths(fp8="output")["fp8"]
    places: Content = {"directory": os.path.dirname(out) or ".", "fp8": out}
    if said.given.get("target") is not None and said.given.get("trace") is None:
        places["trace"] = f"{out}.trace"
    if said.given.get("target") is not None:
        places["calibration_trace"] = f"{out}.calibration-trace"
    if said.given.get("target") is not None or said.given.get("trace") is not None:
        places["verdict"] = f"{out}.gate.json"
    return places


def _of_release(said: _Said) -> Content:
    """`release`: of a draft and evidence that are there already."""
    fp8 = said.paths(fp8="checkpoint")["fp8"]
    bundle = said.paths(bundle="output")["bundle"]
    release = {
        **said.take(name="name", repo_id="repo_id", base_model="base_model", license="license"),
        **said.take(target_name="target_name", require_arch="require_arch", keyless="keyless"),
        **said.take(signing_password_env="signing_password_env"),
        **said.paths(signing_key="signing_key", signing_certificate="signing_certificate"),
        **said.paths(certificate_chain="certificate_chain", verdict="verdict", calibration="calibration"),
        **said.paths(evidence="evidence"),
    }
    if "signing_key" in release and "signing_certificate" not in release:
        release["public_key"] = f"{said.name}.pub.pem"
    # What `release` finds beside OUT by itself, by name.
    if "evidence" not in release:
        release["evidence"] = tuple(
            f"{fp8}.{name}"
            for name in ("parity.json", "served.parity.json")
            if (said.directory / f"{fp8}.{name}").exists()
        )
        is_there = (said.directory / f"{fp8}.verdict.json").exists()
        if is_there and "verdict" not in release and "margin" not in said.given:
            release["verdict"] = f"{fp8}.verdict.json"
    content: Content = {
        "fp8": fp8,
        **said.paths(trace="trace"),
        "outputs": {"directory": os.path.dirname(bundle) or ".", "bundle": bundle},
        "gate": said.take(margin="margin", publish_anyway="publish_anyway"),
        "release": release,
    }
    for key, option in (("draft", "source"), ("target", "target")):
        if said.given.get(option) is not None:
            content[key] = said.model(option)
    return {key: value for key, value in content.items() if value != {}}


RECIPES: Mapping[str, Callable[[_Said], Content]] = {"quantize": _of_quantize, "release": _of_release}
"""What makes a recipe of each command that has the option."""
