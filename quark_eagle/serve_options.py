"""ServeOptions: what a user says of a served measurement, whichever command takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a user says of a served measurement, under the names of its options; None where nothing was said."""

    target: str | None = None
    prompts: Path | None = None
    split: str | None = None
    limit: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    blocks: int | None = None
    concurrency: int | None = None
    deterministic: bool | None = None
    one_at_a_time: bool | None = None
    devices: str | None = None
    baseline_url: str | None = None
    candidate_url: str | None = None
    gpu: str | None = None
    tensor_parallel_size: int | None = None
    vllm_option: list[str] | None = None
    vllm_python: Path | None = None
    vllm_bin: Path | None = None
    ready_seconds: float | None = None
    trust_remote_code: bool | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are spelled."""
        return [
            f"--{name.replace('_', '-')}"
            for name in self.__dataclass_fields__
            if getattr(self, name) not in (None, False, [])
        ]
