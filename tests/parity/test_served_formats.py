"""The same FP8 draft in both formats, served: the same products, the same tokens, the same rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.quantize.compressed_tensors import compressed_tensors_config
from quark_eagle.quantize.format import Format
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.serving.client import Client, Completion, CompletionRequest
from quark_eagle.serving.engine import Engine
from quark_eagle.serving.server import VllmServer
from tests.parity.test_compare import to_fp8
from tests.served import READY_SECONDS, tiny_command
from tests.tiny import write_config, write_tensors

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

K = 3
REQUESTS = [CompletionRequest(prompt_token_ids=range(8 + i, 20 + 2 * i), max_tokens=32) for i in range(8)]


def in_other_format(bf16: Path, quarks: Path, directory: Path) -> Path:
    """The very payload, with the other format's scales and config."""
    from safetensors.torch import load_file

    tensors = load_file(quarks / "model.safetensors")
    directory.mkdir()
    write_tensors(
        directory,
        {name: (t[:, None].contiguous() if name.endswith("weight_scale") else t) for name, t in tensors.items()},
    )
    plan = QuantPlan.of(Eagle3Layout.of(Checkpoint.open(bf16)), format=Format.COMPRESSED_TENSORS)
    config = json.loads((bf16 / "config.json").read_text())
    write_config(directory, config | {"quantization_config": compressed_tensors_config(plan)})
    return directory


@pytest.fixture(scope="module")
def served(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[Format, list[Completion]]:
    """Answers to REQUESTS, one at a time, so that no batch is composed differently, by format."""
    target, bf16 = tiny_pair
    scratch = tmp_path_factory.mktemp("formats")
    quarks = to_fp8(bf16, scratch / "quark")
    drafts = {Format.QUARK: quarks, Format.COMPRESSED_TENSORS: in_other_format(bf16, quarks, scratch / "other")}
    answers = {}
    for form, draft in drafts.items():
        command = tiny_command(target, draft, k=K, dtype="bfloat16")
        log = scratch / f"{form.value}.log"
        with VllmServer.start(Engine.find(), command, log, ready_seconds=READY_SECONDS) as server:
            client = Client(url=server.url, model=server.model, concurrency=1, num_speculative_tokens=K)
            outcomes = client.complete(REQUESTS)
        answers[form] = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
        assert len(answers[form]) == len(REQUESTS), outcomes
    return answers


def accepted(answers: list[Completion]) -> list[tuple[int, ...]]:
    return [answer.accepted_per_round or () for answer in answers]


def test_every_round_accepts_as_many_tokens_in_both_formats(served: Mapping[Format, list[Completion]]) -> None:
    quarks, other = (served[form] for form in (Format.QUARK, Format.COMPRESSED_TENSORS))

    assert [answer.token_ids for answer in other] == [answer.token_ids for answer in quarks]
    assert accepted(other) == accepted(quarks)


def test_the_draft_is_sometimes_right_and_sometimes_wrong(served: Mapping[Format, list[Completion]]) -> None:
    """Else nothing could have differed."""
    lengths = [length for answer in served[Format.QUARK] for length in answer.accepted_per_round or ()]

    assert len(lengths) > 50
    assert {0, K} <= {*lengths}
