"""The files: valid, whole, the checkpoint's own bytes, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.errors import CheckpointError, UsageError
from quark_eagle.onnx_export.agreement import Agreement
from quark_eagle.onnx_export.export import export
from quark_eagle.onnx_export.graph import ALIGNMENT, OPSET
from quark_eagle.onnx_export.running import OnnxDraft
from tests.onnx_export.quantized import write_fp8_draft
from tests.tiny import write_tensors, write_tiny_draft


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export")
    return write_fp8_draft(write_tiny_draft(directory / "bf16", embed_tokens=True), directory / "fp8")


@pytest.fixture(scope="module")
def exported(draft: Path) -> Path:
    export(draft, draft.parent / "onnx")
    return draft.parent / "onnx"


@pytest.fixture(scope="module")
def step(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported / "step.onnx", load_external_data=False)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_same_draft_gives_the_same_bytes(draft: Path, exported: Path, tmp_path: Path) -> None:
    export(draft, tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == files(exported)


def test_a_directory_holds_two_graphs_their_weights_and_the_config(exported: Path) -> None:
    assert sorted(files(exported)) == [
        "combine.onnx",
        "combine.onnx.data",
        "config.json",
        "step.onnx",
        "step.onnx.data",
    ]


def test_weights_are_the_checkpoints_byte_for_byte(draft: Path, exported: Path) -> None:
    checkpoint = Checkpoint.open(draft)
    layout = Eagle3Layout.of(checkpoint)
    seen = set()
    for graph in ("combine", "step"):
        data = (exported / f"{graph}.onnx.data").read_bytes()
        model = onnx.load(exported / f"{graph}.onnx", load_external_data=False)
        for tensor in (it for it in model.graph.initializer if it.external_data):
            place = {it.key: it.value for it in tensor.external_data}
            start, length = int(place["offset"]), int(place["length"])
            assert start % ALIGNMENT == 0
            info = checkpoint.info(layout.by_canonical[tensor.name])
            assert data[start : start + length] == checkpoint.read_bytes(info)
            seen.add(tensor.name)
    assert set(layout.by_canonical) - seen == {"t2d"}


def test_layers_are_fp8_and_the_head_is_not(step: onnx.ModelProto) -> None:
    dtypes = {it.name: it.data_type for it in step.graph.initializer}
    fp8 = {name for name, dtype in dtypes.items() if dtype == TensorProto.FLOAT8E4M3FN}
    assert {name.rsplit(".", 2)[-2] for name in fp8} == {
        f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")
    }
    assert dtypes["lm_head.weight"] == dtypes["embed_tokens.weight"] == TensorProto.BFLOAT16


def test_layers_that_read_the_same_states_share_their_quantization(step: onnx.ModelProto) -> None:
    quantized = [it for it in step.graph.node if it.op_type == "QuantizeLinear"]
    assert len(quantized) == 4  # before q, k, v; o; gate, up; down


def test_the_opset_is_the_one_that_is_stated(step: onnx.ModelProto) -> None:
    assert [(it.domain, it.version) for it in step.opset_import] == [("", OPSET)]


def test_metadata_says_what_it_was_made_from(draft: Path, step: onnx.ModelProto) -> None:
    metadata = {it.key: it.value for it in step.metadata_props}
    assert metadata["scheme"] == "ptpc_fp8"
    assert metadata["family"] == "llama"
    assert metadata["aux_layer_ids"] == "[2, 5, 8]"
    assert len(metadata["weights_sha256"]) == len(metadata["config_sha256"]) == 64
    assert str(draft) not in str(step)


def test_an_export_is_not_replaced_unasked(draft: Path, exported: Path) -> None:
    before = files(exported)
    with pytest.raises(UsageError, match="exists"):
        export(draft, exported)
    assert files(exported) == before
    export(draft, exported, overwrite=True)
    assert files(exported) == before


def test_a_file_name_is_refused_with_the_directory_to_pass(draft: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two graphs.*--output .*draft-onnx\."):
        export(draft, tmp_path / "draft.onnx")


def test_an_interrupted_export_leaves_nothing(draft: Path, tmp_path: Path) -> None:
    def interrupt(_: Path) -> Agreement:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(draft, tmp_path / "onnx", compare=interrupt)
    assert not list(tmp_path.iterdir())


FOUND = Agreement(
    num_prompts=1,
    num_speculative_tokens=3,
    num_proposals=10,
    num_equal=9,
    num_tied_tokens=0,
    num_quantized=0,
    num_ties=0,
    max_difference=0.0,
    bound=0.1,
    has_combine=True,
)


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({}, False),
        ({"num_equal": 10}, True),
        ({"num_tied_tokens": 1}, True),
        ({"num_equal": 10, "max_difference": 0.2}, False),
        ({"num_equal": 10, "max_difference": None}, False),
        ({"num_equal": 0, "num_proposals": 0}, False),
    ],
)
def test_equal_is_every_token_but_ties_and_every_logit_within_the_bound(changes: dict[str, Any], ok: bool) -> None:
    assert replace(FOUND, **changes).ok is ok


def test_what_differs_is_not_written(draft: Path, tmp_path: Path) -> None:
    made = export(draft, tmp_path / "onnx", compare=lambda _: FOUND)
    assert not made.is_published
    assert not list(tmp_path.iterdir())


def test_a_draft_that_the_model_does_not_know_is_refused_with_the_reason(tmp_path: Path) -> None:
    draft = write_tiny_draft(tmp_path / "draft")
    config = (draft / "config.json").read_text()
    (draft / "config.json").write_text(config.replace('"hidden_act"', '"logit_scale": 0.5, "hidden_act"'))
    with pytest.raises(CheckpointError, match="logit_scale"):
        export(draft, tmp_path / "onnx")


def test_an_fp8_weight_without_its_scale_is_refused(draft: Path, tmp_path: Path) -> None:
    tensors = load_file(draft / "model.safetensors")
    del tensors["midlayer.self_attn.q_proj.weight_scale"]
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text((draft / "config.json").read_text())
    save_file(tensors, tmp_path / "draft" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"q_proj\.weight is FP8 without"):
        export(tmp_path / "draft", tmp_path / "onnx")


def states(rows: int, batch: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, states and positions."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 256, (batch, rows))
    hidden = random.standard_normal((batch, rows, 64), dtype=np.float32)
    return tokens, hidden, np.tile(np.arange(rows), (batch, 1))


def feeds(rows: int) -> dict[str, np.ndarray]:
    """The same states by the names of the graph's inputs."""
    tokens, hidden, positions = states(rows)
    return {
        "input_ids": tokens,
        "hidden_states": hidden,
        "attention_mask": np.ones((1, rows), np.int64),
        "position_ids": positions,
        "logits_to_keep": np.array(0),
        "past_key_values.0.key": np.zeros((1, 2, 0, 16), np.float32),
        "past_key_values.0.value": np.zeros((1, 2, 0, 16), np.float32),
    }


def test_logits_to_keep_are_the_last_rows(exported: Path) -> None:
    draft = OnnxDraft(exported)
    whole, last = draft.step(*states(5)), draft.step(*states(5), keep=2)
    assert whole.head.shape[1] == 5
    assert np.array_equal(last.head, whole.head[:, -2:])
    assert np.array_equal(last.next_hidden_states, whole.next_hidden_states[:, -2:])


def test_padding_on_the_left_changes_nothing(exported: Path) -> None:
    draft = OnnxDraft(exported)
    tokens, hidden, positions = states(4)
    alone = draft.step(tokens, hidden, positions)
    padded = draft.step(
        *(np.concatenate((np.zeros_like(it[:, :2]), it), axis=1) for it in (tokens, hidden, positions)),
        attention_mask=np.array([[0, 0, 1, 1, 1, 1]]),
    )
    assert np.isfinite(padded.head).all()
    assert np.allclose(padded.head[:, 2:], alone.head, atol=1e-5)


def test_rows_at_once_are_rows_one_by_one(exported: Path) -> None:
    draft = OnnxDraft(exported)
    tokens, hidden, positions = states(4)
    whole, past, found = draft.step(tokens, hidden, positions), None, []
    for i in range(4):
        one = draft.step(tokens[:, i : i + 1], hidden[:, i : i + 1], positions[:, i : i + 1], past=past)
        past = one.present
        found.append(one.head)
    assert np.allclose(np.concatenate(found, axis=1), whole.head, atol=1e-5)


def test_onnx_reference_evaluator_agrees(exported: Path) -> None:
    """Another implementation of every operator, in numpy."""
    wanted = OnnxDraft(exported).step(*states(3))
    evaluator = ReferenceEvaluator(onnx.load(exported / "step.onnx"))
    found = evaluator.run(["logits", "token_ids"], feeds(3))
    assert np.allclose(found[0], wanted.head, atol=1e-4)
    assert np.array_equal(found[1], wanted.token_ids)


def test_a_borrowed_head_reads_what_the_graph_ends_with(tmp_path: Path) -> None:
    with_head = write_tiny_draft(tmp_path / "head", draft_vocab=None, embed_tokens=True)
    tensors = load_file(with_head / "model.safetensors")
    head = tensors.pop("lm_head.weight").float().numpy()
    without = write_tiny_draft(tmp_path / "none", draft_vocab=None, embed_tokens=True, lm_head=False)
    write_tensors(without, tensors)
    export(with_head, tmp_path / "a")
    export(without, tmp_path / "b")
    wanted, found = (OnnxDraft(tmp_path / name).step(*states(3)) for name in "ab")
    assert found.token_ids is None
    assert np.allclose(found.head @ head.T, wanted.head, atol=1e-5)


def test_embeddings_may_be_left_to_the_runtime(draft: Path, exported: Path, tmp_path: Path) -> None:
    export(draft, tmp_path / "onnx", takes_embeds=True)
    tokens, hidden, positions = states(3)
    table = load_file(draft / "model.safetensors")["embed_tokens.weight"].float().numpy()
    found = OnnxDraft(tmp_path / "onnx").step(table[tokens], hidden, positions)
    assert np.array_equal(found.head, OnnxDraft(exported).step(tokens, hidden, positions).head)


@pytest.mark.parametrize("fusion_off", ["disable_quant_qdq", "basic"])
def test_either_option_is_enough_for_onnxruntime(fusion_off: str, exported: Path) -> None:
    options = onnxruntime.SessionOptions()
    if fusion_off == "basic":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    else:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(exported / "step.onnx", options, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], feeds(3))[0]
    assert np.allclose(found, OnnxDraft(exported).step(*states(3)).head, atol=1e-4)


def test_onnxruntime_needs_its_fusion_off(exported: Path) -> None:
    """What the documentation says of it; if this fails, onnxruntime has learnt FP8, and the page may say less."""
    with pytest.raises(Exception, match=r"INVALID_GRAPH.*float8e4m3fn"):
        onnxruntime.InferenceSession(exported / "step.onnx", providers=["CPUExecutionProvider"])
