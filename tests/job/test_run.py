"""A step is run exactly if something that it depends on is not as it was, and nothing is lost to a crash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from quark_eagle.errors import EngineError, QuarkEagleError, UsageError
from quark_eagle.job import circumstances
from quark_eagle.job.books import open_books
from quark_eagle.job.run import foretold, refuse_unknown
from tests.job.world import World

ALL = [
    "inspect",
    "trace",
    "calibration-trace",
    "quantize",
    "verify",
    "gate",
    "explain",
    "release",
    "verify-release",
]
FROM_QUANTIZE = ["quantize", "verify", "gate", "explain", "release", "verify-release"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World.made(tmp_path)
    assert made.ran() == ALL
    return made


def test_a_second_run_runs_nothing(world: World) -> None:
    assert world.ran() == []
    assert world.calls == []


# A line of the recipe and what becomes of it, or an input that gets another content.
CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "margin": ("margin = 0.01", "margin = 0.02", FROM_QUANTIZE),
    "looks": ("looks = 2", "looks = 1", ["gate", "release", "verify-release"]),
    "k": ("num_speculative_tokens = 3", "num_speculative_tokens = 4", FROM_QUANTIZE),
    "prompts": ("limit = 64", "limit = 65", ["trace", *FROM_QUANTIZE]),
    "calibration prompts": ("limit = 16", "limit = 17", ["calibration-trace", *FROM_QUANTIZE]),
    "keep": ('keep = ["*.down_proj"]', 'keep = ["*.up_proj"]', FROM_QUANTIZE),
    "scheme": ('scheme = "fp8"', 'scheme = "fp8_channel_static"', FROM_QUANTIZE),
    "name": ('name = "tiny"', 'name = "small"', ["release", "verify-release"]),
    "an output": ("work/gate.xml", "work/junit.xml", ["gate", "release", "verify-release"]),
    "a step less": ('"inspect", ', "", []),
    "the draft": ("", "draft/config.json", ALL),
    "the target": ("", "target/config.json", ["trace", "calibration-trace", *FROM_QUANTIZE]),
    "the private key": ("", "key.pem", ["release", "verify-release"]),
    "the public key": ("", "key.pub.pem", ["verify-release"]),
    "what nobody reads": ("", "prompts.jsonl", []),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_runs_exactly_what_depends_on_it(world: World, what: str) -> None:
    old, new, again = CHANGES[what]
    if old:
        world.change(old, new)
    else:
        (world.directory / new).write_text("of another day")
    assert world.ran() == again
    assert world.ran() == []


def test_another_version_of_this_program_runs_everything(world: World) -> None:
    world.version = "2"
    assert world.ran() == ALL


def test_what_comes_out_the_same_spares_what_reads_it(world: World) -> None:
    """An output made anew, byte for byte as it was, is no reason to run anything else."""
    (world.directory / "work" / "trace" / "trace.json").unlink()
    assert world.ran() == ["trace"]


@pytest.mark.parametrize(
    ("output", "first"),
    [
        ("work/trace", "trace"),
        ("work/fp8.parity.json", "quantize"),
        ("work/gate.xml", "gate"),
        ("work/bundle", "release"),
    ],
)
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_an_output_that_was_touched_by_hand_is_made_anew(world: World, output: str, first: str, how: str) -> None:
    path = world.directory / output
    file = next(it for it in sorted(path.rglob("*.json")) if "recording" not in it.name) if path.is_dir() else path
    if how == "removed":
        file.unlink()
    else:
        file.write_text("edited")
    ran = world.ran()
    assert ran[0] == first
    assert file.read_text() != "edited"
    assert set(ran) < set(ALL)


@pytest.mark.parametrize("step", ["trace", "calibration-trace", "quantize", "gate", "release"])
def test_a_step_that_was_killed_is_taken_up(tmp_path: Path, step: str) -> None:
    world = World.made(tmp_path)
    world.killed = step
    with pytest.raises(EngineError, match="killed by signal 9"):
        world.run()
    world.killed = ""
    assert world.ran() == ALL[ALL.index(step) :]
    assert all(code == 0 for code in [it.exit_code for it in world.run()])


def test_an_unfinished_recording_is_continued_and_not_begun_anew(tmp_path: Path) -> None:
    world = World.made(tmp_path)
    world.killed = "trace"
    with pytest.raises(EngineError):
        world.run()
    world.killed = ""
    world.run()
    assert "--overwrite" not in world.calls[0]
    assert world.calls[0][0] == "trace"


def test_a_recording_that_lacks_its_anchor_alone_is_not_begun_anew(tmp_path: Path) -> None:
    """With --overwrite, `trace` would record hours again for what replay does in minutes."""
    world = World.made(tmp_path, 'draft = "draft"\ntarget = "target"\n[engine]\nname = "vllm"\n')
    world.answers = {"trace": 5}  # trace.json is there when replay of it fails
    world.run()
    assert (tmp_path / "work" / "trace" / "trace.json").exists()
    world.answers = {}
    assert world.ran()[0] == "trace"
    assert "--overwrite" not in world.calls[0]
    (tmp_path / "target" / "config.json").write_text("of another day")
    assert world.ran()[0] == "trace"
    assert "--overwrite" in world.calls[0]


def test_what_the_ledger_does_not_know_is_refused_all_at_once(tmp_path: Path) -> None:
    world = World.made(tmp_path)
    (tmp_path / "work").mkdir()
    for name in ("work/fp8", "work/verdict.json"):
        (tmp_path / name).write_text("mine")
    with world.books() as books, pytest.raises(UsageError) as refused:
        refuse_unknown(world.steps, books)
    assert "work/fp8: exists, and no step of this job wrote it" in str(refused.value)
    assert "work/verdict.json" in str(refused.value)
    assert "--overwrite" in str(refused.value)
    assert not world.calls


def test_a_killed_step_owns_only_the_places_that_it_was_begun_with(tmp_path: Path) -> None:
    world = World.made(tmp_path)
    world.killed = "gate"
    with pytest.raises(EngineError):
        world.run()
    (tmp_path / "mine.xml").write_text("mine")
    world.change('junit = "work/gate.xml"', 'junit = "mine.xml"')
    with world.books() as books, pytest.raises(UsageError, match=r"mine\.xml"):
        refuse_unknown(world.steps, books)


@pytest.mark.parametrize("code", [2, 3, 4, 5, 143])
def test_the_first_exit_code_that_is_not_0_ends_the_job(tmp_path: Path, code: int) -> None:
    world = World.made(tmp_path)
    world.answers = {"gate": code}
    done = world.run()
    assert [it.exit_code for it in done if it.status == "run"][-1] == code
    assert [it.step.name for it in done if it.status == "not reached"] == ["explain", "release", "verify-release"]
    world.answers = {}
    assert world.ran() == ["gate", "explain", "release", "verify-release"]


def test_a_no_that_is_published_anyway_does_not_end_the_job(tmp_path: Path) -> None:
    world = World.made(tmp_path)
    world.change("looks = 2", "publish_anyway = true")
    world.answers = {"quantize": 3, "gate": 3}
    assert [it.exit_code for it in world.run()] == [0, 0, 0, 3, 0, 3, 0, 0, 0]
    again = world.run()
    assert {it.status for it in again} == {"skipped"}
    assert [it.exit_code for it in again][3] == 3


def test_a_dry_run_says_what_a_run_does_and_does_nothing(world: World) -> None:
    world.change('keep = ["*.down_proj"]', 'keep = ["*.up_proj"]')
    before = {path: path.stat().st_mtime_ns for path in world.directory.rglob("*")}
    with world.books(write=False) as books:
        said = [it.step.name for it in foretold(world.steps, books) if it.action == "run"]
    assert {path: path.stat().st_mtime_ns for path in world.directory.rglob("*")} == before
    assert said == FROM_QUANTIZE == world.ran()


def test_a_job_runs_once_at_a_time(world: World) -> None:
    with world.books(), pytest.raises(UsageError, match="still at work"), world.books():
        pass


def test_a_job_can_be_moved_with_its_outputs(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Paths in the ledger are relative to the recipe, and what decides is content."""
    elsewhere = tmp_path_factory.mktemp("moved") / "job"
    os.rename(world.directory, elsewhere)
    assert World(elsewhere).ran() == []


def test_the_ledger_is_written_whole(world: World) -> None:
    (path,) = world.directory.rglob("*.ledger.json")
    assert path.name == "job.ledger.json"
    assert set(json.loads(path.read_text())["steps"]) == set(ALL)


def certified(world: World) -> None:
    world.change('public_key = "key.pub.pem"', 'signing_certificate = "own.pem"\ncertificate_chain = ["root.pem"]')
    for name in ("own.pem", "root.pem"):
        (world.directory / name).write_text(name)
    assert world.ran() == ["release", "verify-release"]


@pytest.mark.parametrize("file", ["own.pem", "root.pem"])
def test_another_certificate_makes_another_release(world: World, file: str) -> None:
    certified(world)
    (world.directory / file).write_text("of another day")
    assert world.ran() == ["release", "verify-release"]


def test_another_date_makes_another_release(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    (release,) = [it for it in world.run() if it.status == "run"]
    assert release.step.name == "release"
    assert release.why == "the environment's SOURCE_DATE_EPOCH changed"


def test_another_version_of_what_does_the_work_runs_its_steps_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = circumstances.metadata.version
    monkeypatch.setattr(circumstances.metadata, "version", lambda name: "0" if name == "amd-quark" else known(name))
    (quantize,) = [it for it in world.run() if it.status == "run"]
    assert quantize.step.name == "quantize"
    assert quantize.why == "the version of amd-quark changed"


def test_an_edited_checkout_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "own_code", lambda: "edited")
    done = world.run()
    assert {it.status for it in done} == {"run"}
    assert done[0].why == "quark-eagle's own code changed"


def test_another_vllm_in_the_named_environment_is_noticed_and_not_run(tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    (packages / "vllm-0.1.dist-info").mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir()
    (tmp_path / "venv" / "bin" / "python").write_text("nothing that runs")
    engine = '[engine]\nname = "vllm"\npython = "venv/bin/python"\n'
    world = World.made(tmp_path, f'draft = "draft"\ntarget = "target"\n{engine}')
    world.run()
    assert world.ran() == []
    (packages / "vllm-0.1.dist-info").rename(packages / "vllm-0.2.dist-info")
    trace = world.run()[0]
    assert (trace.status, trace.why) == ("run", "vLLM of venv/bin/python changed")


def test_of_a_private_key_not_even_a_hash_is_kept(world: World) -> None:
    (path,) = world.directory.rglob("*.ledger.json")
    assert hashlib.sha256((world.directory / "key.pem").read_bytes()).hexdigest() not in path.read_text()
    assert "key.pem" not in json.loads(path.read_text())["files"]


def test_two_recipes_do_not_run_in_one_directory_at_a_time(tmp_path: Path) -> None:
    world = World.made(tmp_path / "one")
    other = tmp_path / "one" / "work" / "other.ledger.json"
    with world.books(), pytest.raises(UsageError, match="still at work"), open_books(other, tmp_path, "1", write=True):
        pass


def test_a_namesake_elsewhere_does_not_take_a_recipes_ledger(tmp_path: Path) -> None:
    work = tmp_path / "work"
    text = f'draft = "draft"\n[outputs]\ndirectory = "{work}"\n'
    first, second = World.made(tmp_path / "one", text), World.made(tmp_path / "two", text)
    assert first.ran() == ["quantize", "verify"]
    for write in (True, False):
        with (
            pytest.raises(UsageError, match=r"is the ledger of .*one/job\.toml.*Name another"),
            second.books(write=write),
        ):
            pass
    first.recipe.unlink()  # it was moved
    shutil.rmtree(second.directory / "draft")
    shutil.copytree(first.directory / "draft", second.directory / "draft")
    assert second.ran() == []


def test_a_damaged_ledger_says_what_helps(world: World) -> None:
    (path,) = world.directory.rglob("*.ledger.json")
    for content in (b"{", b"\xff", b'{"schema_version": 9}'):
        path.write_bytes(content)
        with pytest.raises(QuarkEagleError, match="Remove it: every step is then run anew"):
            world.run()


def test_other_prompts_in_the_package_are_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "own_prompts", lambda: "edited")
    done = [it for it in world.run() if it.status == "run"]
    assert [(it.step.name, it.why) for it in done] == [
        ("trace", "quark-eagle's own prompts changed"),
        ("calibration-trace", "quark-eagle's own prompts changed"),
    ]


def test_the_code_that_counts_is_all_that_a_result_is_made_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.setattr(circumstances, "__file__", str(tmp_path / "job" / "circumstances.py"))
    seen = []
    for name in ("a.py", "release.html.j2", "release.css", "notes.md"):
        (tmp_path / name).write_text(name)
        seen.append(circumstances.own_code.__wrapped__())
    assert len(set(seen)) == 3
    assert seen[-1] == seen[-2]
