"""The baseline's report, schema version 1: what the BF16 draft got accepted on one path, to be kept and compared with.

A small golden file beside the code: a CI job replays the FP8 draft alone and takes the BF16 draft's counts from here.
It holds one arm of a `parity.json`, prompt by prompt, and the same provenance, by which a later measurement sees
whether the counts are those that it would have found itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quark_eagle.documents.base import Count, Document, Sha256, read_document
from quark_eagle.documents.counts import PromptAcceptance, count_problems
from quark_eagle.documents.parity import Arm, ParityReport, Provenance, one_line_a_prompt
from quark_eagle.errors import QuarkEagleError, UsageError

BASELINE_SCHEMA_VERSION = 1
WRITER = "quark-eagle parity BASELINE --trace TRACE --update-baseline FILE"


class BaselinePrompt(Document):
    """One prompt and what the BF16 draft did on it.

    Attributes:
        sha256: of the prompt as it was given to the target.
        num_generated_tokens: T; the first came from prefill.
    """

    id: str
    sha256: Sha256
    category: str
    split: str
    num_generated_tokens: Count
    baseline: PromptAcceptance


class BaselineReport(Document):
    """The baseline's arm of a measurement."""

    schema_version: Literal[1]
    num_speculative_tokens: Annotated[int, Field(ge=1)]
    baseline: Arm
    provenance: Provenance
    prompts: list[BaselinePrompt]

    @model_validator(mode="after")
    def _counts_fit(self) -> BaselineReport:
        problems = [
            problem
            for prompt in self.prompts
            for problem in count_problems(
                f"prompt {prompt.id}", prompt.num_generated_tokens, prompt.baseline, self.num_speculative_tokens
            )
        ]
        if problems:
            raise ValueError("; ".join(problems[:5]))
        return self

    @classmethod
    def of(cls, report: ParityReport) -> BaselineReport:
        """The baseline's arm of a whole measurement.

        Raises:
            QuarkEagleError: it was not replayed there but taken from a file, and the provenance is the candidate's; or
                it was served.
        """
        if report.served is not None:
            raise QuarkEagleError(
                "The report's baseline was served, and serving counts anew in every run. A baseline to be stored is "
                "replayed: `quark-eagle parity BASELINE --trace TRACE --update-baseline FILE`."
            )
        stored = report.provenance.stored_baseline
        if stored is not None:
            raise QuarkEagleError(
                f"The report's baseline was not replayed but taken from {stored.file}, and one measured on the "
                "trace was needed. Give that file itself."
            )
        return cls(
            schema_version=1,
            num_speculative_tokens=report.num_speculative_tokens,
            baseline=report.baseline,
            provenance=report.provenance,
            prompts=[
                BaselinePrompt(
                    id=prompt.id,
                    sha256=prompt.sha256,
                    category=prompt.category,
                    split=prompt.split,
                    num_generated_tokens=prompt.num_generated_tokens,
                    baseline=prompt.baseline,
                )
                for prompt in report.prompts
            ],
        )

    @classmethod
    def read(cls, path: Path) -> BaselineReport:
        """The stored baseline in a file: one that ``--update-baseline`` wrote, or the baseline's arm of a parity.json.

        Raises:
            StorageError: the file may not be read.
            QuarkEagleError: it is neither, its counts contradict themselves, or it is a parity.json whose baseline was
                itself stored elsewhere.
        """
        if "candidate" not in _content(path):
            return read_document(cls, path, f"stored baseline of schema version {BASELINE_SCHEMA_VERSION}", WRITER)
        return cls.of(ParityReport.read(path))

    def to_json(self) -> str:
        """The file's text: one line for each prompt, so that a diff of two baselines shows which prompts changed."""
        return one_line_a_prompt(self)


def refuse_replacing_another_file(path: Path) -> None:
    """See before the work that an update would replace a stored baseline, or nothing.

    Raises:
        UsageError: something else lies there, or the place is none for a file.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: is no place for a file. Name the file that holds the baseline, or will.")
    content = _content(path)
    if path.exists() and ("baseline" not in content or "candidate" in content):
        raise UsageError(f"{path}: exists and is no stored baseline, so it is not replaced. Choose another name.")


def _content(path: Path) -> Mapping[str, Any]:
    """The file's JSON object; empty where it holds none, which whoever reads it in earnest will say."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
