"""reproduce.sh runs: sound sh in every case, with nothing of the releaser's machine, and really run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.cli.app import command
from quark_eagle.release import contents
from quark_eagle.release.reproduce import script
from quark_eagle.release.reproduce_options import Place, gating, measuring, quantizing, recording
from tests.release.made_evidence import HOSTILE_PATTERN, VARIANTS, evidence_of
from tests.tiny_trace import write_tiny_trace

Bundle = Callable[[str], Path]


def run(bundle: Path, text: str, directory: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """The script as somebody else runs it: in another directory, with nothing of ours in the environment."""
    (bundle / contents.SCRIPT).write_text(text, encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(
        ["sh", str(bundle / contents.SCRIPT)],
        cwd=directory,
        env=environment | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_sound_sh_and_the_same_whenever_it_is_written(made_bundle: Bundle, variant: str) -> None:
    evidence = evidence_of(made_bundle(variant))
    text = script(evidence)
    assert text == script(evidence_of(made_bundle(variant)))
    assert text.startswith("#!/bin/sh\n")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    checked = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_of_the_machine_that_released_is_in_it(made_bundle: Bundle, variant: str) -> None:
    text = script(evidence_of(made_bundle(variant)))
    assert "/home/" not in text
    assert str(made_bundle(variant).parent) not in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_command_is_one_that_quark_eagle_takes(made_bundle: Bundle, variant: str) -> None:
    """By the command line's own parser: an option that was renamed would fail here and not at a stranger's."""
    evidence = evidence_of(made_bundle(variant))
    commands = {"quantize": quantizing, "parity": measuring, "gate": gating}
    commands |= {} if evidence.parity.served is not None else {"trace": recording}
    for verb, words in commands.items():
        context = command(verb).make_context(verb, [str(word) for word in words(evidence)])
        assert context.params, verb


def test_the_options_are_those_of_the_release(made_bundle: Bundle) -> None:
    evidence = evidence_of(made_bundle("static"))
    text = script(evidence)
    assert "--scheme fp8 " in text
    assert "'--keep=*.o_proj'" in text
    assert '--calibration "$calibration" --observer min_max' in text
    assert "--margin 0.02 --alpha 0.05 --category-margin 0.04" in text
    assert "--max-tokens 101 --temperature 0.0" in text
    assert f"made_by='quark-eagle {evidence.release.versions['quark_eagle']}'" in text
    served = script(evidence_of(made_bundle("served")))
    assert '--engine vllm --target "$target" --blocks 3' in served
    assert "--trace" not in served
    assert '[ "$code" -eq 3 ]' in script(evidence_of(made_bundle("override")))  # as its verdict says


def test_rules_beyond_the_usual_are_passed_on(made_bundle: Bundle) -> None:
    evidence = evidence_of(made_bundle("pass"))
    looks = evidence.verdict.looks.model_copy(update={"planned": 2})
    stated = evidence.verdict.bias.model_copy(update={"source": "as stated with --bias", "bound": 0.002})
    rules = {"looks": looks, "bias": stated, "required_arch": "gfx950", "expected_baseline": 2.5}
    text = script(replace(evidence, verdict=evidence.verdict.model_copy(update=rules)))
    assert "--expect-baseline 2.5 --bias 0.002 --looks 2 --require-arch gfx950" in text


def test_no_name_is_run(made_bundle: Bundle, tmp_path: Path) -> None:
    """A pattern that is a program in any careless quoting; the draft is wrong, so that nothing else is run either."""
    evidence = evidence_of(made_bundle("hostile"))
    text = script(evidence)
    assert shlex.quote(f"--keep={HOSTILE_PATTERN}") in text
    dollars = replace(evidence, record=_with_keep(evidence.record, "$(touch pwned)"))
    assert "'--keep=$(touch pwned)'" in script(dollars)
    bundle = shutil.copytree(made_bundle("hostile"), tmp_path / "bundle")
    done = run(bundle, text, tmp_path, DRAFT=bundle)
    assert done.returncode == 3, done.stderr
    assert "DIFFERS  model.safetensors" in done.stderr
    assert not list(tmp_path.rglob("pwned*"))


def _with_keep(record: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    return {**record, "plan": {**record["plan"], "keep": [pattern]}}


def test_a_name_in_the_evidence_is_no_variable_of_the_script(made_bundle: Bundle) -> None:
    evidence = evidence_of(made_bundle("pass"))
    spoilt = {**evidence.record["plan"], "scheme": "$draft"}
    words = quantizing(replace(evidence, record={**evidence.record, "plan": spoilt}))
    assert "$draft" in [word for word in words if not isinstance(word, Place)]
    assert "--scheme '$draft'" in script(replace(evidence, record={**evidence.record, "plan": spoilt}))


def test_what_is_needed_is_asked_for(made_bundle: Bundle, tmp_path: Path) -> None:
    bundle = shutil.copytree(made_bundle("hostile"), tmp_path / "bundle")  # its draft is on no hub
    done = run(bundle, script(evidence_of(bundle)), tmp_path)
    assert done.returncode == 5
    assert "DRAFT: set it to the directory or Hugging Face id of the BF16 draft." in done.stderr


def test_one_byte_in_what_was_made_is_a_difference(made_bundle: Bundle, tmp_path: Path) -> None:
    bundle = shutil.copytree(made_bundle("pass"), tmp_path / "bundle")
    made = shutil.copytree(bundle, tmp_path / "reproduced" / "fp8")  # as if quantized already
    draft = made_bundle("pass").with_name("tiny-eagle3-fp8.draft")
    same = run(bundle, script(evidence_of(bundle)), tmp_path, DRAFT=draft, ONLY="quantize")
    assert same.returncode == 0, same.stderr
    assert "The same weights, byte for byte." in same.stderr
    weights = made / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = run(bundle, script(evidence_of(bundle)), tmp_path, DRAFT=draft, ONLY="quantize")
    assert done.returncode == 3
    assert "DIFFERS  model.safetensors" in done.stderr
    assert "same     config.json" in done.stderr


@pytest.mark.quark
@pytest.mark.slow
def test_the_whole_job_is_done_again(made_bundle: Bundle, tmp_path: Path) -> None:
    """Quark makes the bytes that the bundle has by definition; its made-up counts are not those of a real replay."""
    bundle = shutil.copytree(made_bundle("pass"), tmp_path / "bundle")
    draft = made_bundle("pass").with_name("tiny-eagle3-fp8.draft")
    trace = write_tiny_trace(tmp_path / "trace", draft, num_prompts=64, num_generated=8)
    done = run(bundle, script(evidence_of(bundle)), tmp_path, DRAFT=draft, TRACE=trace, WORK="made")
    assert "same     model.safetensors" in done.stderr
    assert "another recording than the one that was judged" in done.stderr
    assert "0 of 200 prompts have the counts of the release" in done.stderr
    outcome = json.loads((tmp_path / "made" / "verdict.json").read_text(encoding="utf-8"))
    assert done.returncode == (0 if outcome["outcome"] == "pass" else 3), done.stderr
    assert f"and this says {outcome['exit_code']}" in done.stderr or "the same verdict: pass" in done.stderr
