from __future__ import annotations

import json
from pathlib import Path

import pytest

from quark_eagle.documents.base import refuse_existing, write_text
from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import QuarkEagleError, StorageError, UsageError
from quark_eagle.parity.compare import Comparison
from tests.tiny import write_tiny_draft
from tests.tiny_trace import write_tiny_trace


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ParityReport:
    directory = tmp_path_factory.mktemp("report")
    draft = write_tiny_draft(directory / "draft", draft_vocab=8)
    return Comparison.open(draft, draft, write_tiny_trace(directory / "trace", draft)).run(command_line=["x"])


def damaged(report: ParityReport, path: Path, **changes: object) -> Path:
    content = json.loads(report.to_json())
    content["prompts"][0] |= changes
    path.write_text(json.dumps(content))
    return path


def test_a_report_reads_back_as_it_was_written(report: ParityReport, tmp_path: Path) -> None:
    write_text(tmp_path / "parity.json", report.to_json())
    assert ParityReport.read(tmp_path / "parity.json") == report


def test_a_prompt_is_one_line(report: ParityReport) -> None:
    lines = [line for line in report.to_json().splitlines() if '"id": "prompt-' in line]
    assert len(lines) == len(report.prompts)


def test_counts_that_do_not_make_the_path_are_refused(report: ParityReport, tmp_path: Path) -> None:
    arm = {"walk": [1, 0, 0, 0], "every_start": None, "walk_num_drafts": None}
    with pytest.raises(QuarkEagleError, match=r"prompt prompt-0, candidate: accepted \+ rounds is not 15"):
        ParityReport.read(damaged(report, tmp_path / "p.json", candidate=arm))


def test_a_histogram_of_another_k_is_refused(report: ParityReport, tmp_path: Path) -> None:
    arm = {"walk": [15, 0], "every_start": None, "walk_num_drafts": None}
    with pytest.raises(QuarkEagleError, match="a histogram for k = 3 has 4 counts"):
        ParityReport.read(damaged(report, tmp_path / "p.json", baseline=arm))


def test_an_unknown_key_is_refused_by_name(report: ParityReport, tmp_path: Path) -> None:
    with pytest.raises(QuarkEagleError, match=r"prompts\.0\.colour: Extra inputs"):
        ParityReport.read(damaged(report, tmp_path / "p.json", colour="red"))


def test_another_schema_version_is_refused(report: ParityReport, tmp_path: Path) -> None:
    content = json.loads(report.to_json()) | {"schema_version": 2}
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match=r"schema_version: .*Make it again"):
        ParityReport.read(tmp_path / "p.json")


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(QuarkEagleError, match="Invalid JSON"):
        ParityReport.read(tmp_path / "p.json")
    with pytest.raises(StorageError, match=r"could not be read"):
        ParityReport.read(tmp_path / "none.json")


def test_a_write_that_fails_leaves_the_old_document_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parity.json"
    path.write_text("old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StorageError, match=r"No space left on device\); it needs 3 bytes"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["parity.json"]


def test_a_directory_is_no_place_for_a_document(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory, but a file name was needed"):
        refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="its directory does not exist"):
        refuse_existing(tmp_path / "none" / "parity.json", overwrite=False)


def test_a_report_without_some_of_its_prompts_is_refused(report: ParityReport, tmp_path: Path) -> None:
    content = json.loads(report.to_json())
    content["prompts"].pop()
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match="some were left out or changed"):
        ParityReport.read(tmp_path / "p.json")


def test_a_name_with_a_line_break_is_refused(report: ParityReport, tmp_path: Path) -> None:
    """A log's line that begins with `::` is a command to GitHub."""
    content = json.loads(report.to_json())
    content["candidate"]["name"] = "x\n::stop-commands::y"
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(QuarkEagleError, match="holds a control character"):
        ParityReport.read(tmp_path / "p.json")
