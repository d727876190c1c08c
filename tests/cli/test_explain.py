from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.documents.parity import ParityReport
from quark_eagle.parity.compare import Comparison
from tests.parity.test_contexts import damaged
from tests.reports import WORSE, report
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "parity.json"
    path.write_text(report(WORSE).to_json())
    return path


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Report, baseline, candidate and trace of one measurement."""
    directory = tmp_path_factory.mktemp("four")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    candidate = damaged(draft, directory / "damaged", noise=0.5)
    trace = write_tiny_trace(directory / "trace", draft)
    path = directory / "parity.json"
    path.write_text(Comparison.open(draft, candidate, trace).run().to_json())
    return path, draft, candidate, trace


def run(*args: str | Path, columns: int | None = None) -> tuple[int, str, str]:
    environment = {} if columns is None else {"COLUMNS": str(columns)}
    result = CliRunner().invoke(app, ["explain", *map(str, args)], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_shows_all_cuts_of_the_loss_and_what_to_run_next(counts: Path) -> None:
    code, out, _ = run(counts)
    assert code == 0
    for words in (
        "Where acceptance was lost: draft-fp8 against draft",
        "marginal 0",
        "conditional 2",
        "delta method, paired by conversation",
        "coding (100)",
        "By conversation: 200 need more rounds, 0 fewer, 0 as many",
        "The worst tenth (20 conversations) holds",
        "prompt-103",
        "same token in 18 000 of 20 000 places (90.0%)",
        f"quark-eagle explain {counts} --baseline DRAFT --candidate DRAFT-FP8",
        f"Next: quark-eagle gate {counts}",
    ):
        assert words in out


def test_tables_fit_a_hundred_columns(four: tuple[Path, Path, Path, Path]) -> None:
    path, draft, candidate, _ = four
    _, narrow, _ = run(path, "--baseline", draft, "--candidate", candidate, columns=100)
    _, wide, _ = run(path, "--baseline", draft, "--candidate", candidate, columns=300)
    assert narrow == wide, "no cell was folded"
    tables = [line for line in narrow.splitlines() if line.startswith(("marginal", "conditional", "all", "─"))]
    assert tables
    assert max(map(len, tables)) <= 100


def test_a_report_alone_is_explained_with_nothing_that_is_slow_to_import(counts: Path) -> None:
    """It takes two seconds at most: `benchmarks/start_up.py`."""
    program = (
        "import sys\nfrom quark_eagle.cli.app import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('torch', 'safetensors', 'scipy.stats', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "explain", str(counts)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_json_is_one_object_and_nothing_else(counts: Path) -> None:
    code, out, err = run(counts, "--json", "--prompts", "2")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["schema_version"] == 1
    assert len(document["worst"]) == 2
    assert document["contexts"] is None
    share = document["walk"][0]["marginal"]["baseline"]
    assert share["rate"] == share["count"] / share["of"]


def test_a_stored_baselines_agreement_is_said_to_be_unknown(tmp_path: Path) -> None:
    measured = report(WORSE)
    unknown = {"num_proposals_compared": None, "num_proposals_shared": None}
    prompts = [prompt.model_copy(update=unknown) for prompt in measured.prompts]
    path = tmp_path / "parity.json"
    path.write_text(measured.model_copy(update={"prompts": prompts}).to_json())
    assert "is not known" in run(path)[1]


def test_with_both_drafts_the_lost_tokens_are_shown_on_the_trace_that_the_report_names(
    four: tuple[Path, Path, Path, Path],
) -> None:
    path, draft, candidate, _ = four
    code, out, _ = run(path, "--baseline", draft, "--candidate", candidate)
    assert code == 0
    for words in ("Tokens lost", "answer token", "accepted (gives it 0.", "KL(baseline || candidate)", "median"):
        assert words in out
    _, text, err = run(path, "--baseline", draft, "--candidate", candidate, "--json")
    contexts = json.loads(text)["contexts"]
    assert err == ""
    assert [one["id"] for one in contexts["prompts"]] == [one["id"] for one in json.loads(text)["worst"]]
    assert all(prompt["as_reported"] for prompt in contexts["prompts"])
    assert contexts["prompts"][0]["places"][0]["context"] is None


def test_text_that_could_move_the_cursor_is_printed_as_escapes(
    four: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed: `make install` brings it")
    words = {f"\x1b[2J{number}": number for number in range(256)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="\x1b[2J0")).save(
        str(tmp_path / "tokenizer.json")
    )
    path, draft, candidate, _ = four
    code, out, _ = run(path, "--baseline", draft, "--candidate", candidate, "--tokenizer", tmp_path)
    assert code == 0
    assert "\x1b" not in out
    assert "'\\x1b[2J" in out


def test_drafts_that_the_report_was_not_made_with_are_refused(four: tuple[Path, Path, Path, Path]) -> None:
    path, draft, candidate, _ = four
    code, out, err = run(path, "--baseline", candidate, "--candidate", draft)
    assert code == 5
    assert out == ""
    assert err.count("wanted sha256") == 2
    assert "measure these with `quark-eagle parity`" in err


@pytest.mark.parametrize("options", [["--baseline", "d"], ["--candidate", "d"], ["--trace", "t"], ["--tokenizer", "t"]])
def test_half_of_what_a_replay_needs_is_wrong_usage(counts: Path, options: list[str]) -> None:
    code, _, err = run(counts, *options)
    assert code == 2
    assert f"{options[0]}: given, but --baseline and --candidate were both needed" in err


def test_a_trace_that_is_not_where_the_report_says_is_asked_for(
    four: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    path, draft, candidate, trace = four
    measured = ParityReport.read(path)
    moved = tmp_path / "parity.json"
    elsewhere = measured.provenance.model_copy(update={"trace": "/no/such/trace"})
    moved.write_text(measured.model_copy(update={"provenance": elsewhere}).to_json())
    code, _, err = run(moved, "--baseline", draft, "--candidate", candidate)
    assert code == 2
    assert "/no/such/trace: the report names this trace, but it is not here" in err
    assert run(moved, "--baseline", draft, "--candidate", candidate, "--trace", trace)[0] == 0


@pytest.mark.parametrize("content", [None, "no JSON", '{"schema_version": 2}'])
def test_a_report_that_cannot_be_read_exits_with_5(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "parity.json"
    if content is not None:
        path.write_text(content)
    code, out, err = run(path)
    assert (code, out) == (5, "")
    assert str(path) in err


def test_the_plot_is_written_with_the_counts_in_its_title(counts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: `make install` brings it")
    path = tmp_path / "p.svg"
    code, out, _ = run(counts, "--plot", path)
    assert code == 0
    assert f"--plot: {path}" in out
    assert "200 prompts, 200 conversations" in path.read_text()


def test_a_plot_that_may_not_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    existing = tmp_path / "p.svg"
    existing.write_text("mine")
    for plot, words in ((existing, "exists, and nothing existing is touched"), (tmp_path / "p.pdf", "ends in .png or")):
        code, _, err = run(tmp_path / "no.json", "--plot", plot)
        assert code == 2
        assert words in err
    assert existing.read_text() == "mine"
