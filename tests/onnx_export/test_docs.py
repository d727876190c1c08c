"""What `docs/reference/onnx.md` says of the graphs is what the graphs are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quark_eagle.checkpoint.layout import Eagle3Layout
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.onnx_export.agreement import LOGIT_BOUND, TIE
from quark_eagle.onnx_export.graph import OPSET
from quark_eagle.onnx_export.ports import Port, Ports, combine_ports, step_ports

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "onnx.md").read_text(encoding="utf-8")
SIZES = {
    "num_aux · target_hidden_size": 192,
    "hidden_size": 64,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "draft_vocab_size": 96,
}


def rows(graph: str) -> list[list[str]]:
    """The cells of the table under that graph's heading."""
    table = PAGE.split(f"**{graph}.onnx**\n\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def described(ports: Ports) -> list[list[str]]:
    return [_row("in", port) for port in ports.inputs] + [_row("out", port) for port in ports.outputs]


def _row(kind: str, port: Port) -> list[str]:
    names = {size: name for name, size in SIZES.items()}
    shape = ", ".join(str(names.get(dim, dim)) for dim in port.dims) or "scalar"  # type: ignore[call-overload]
    return [kind, f"`{port.name}`", port.dtype, shape, port.meaning]


@pytest.mark.parametrize("graph", ["combine", "step"])
def test_the_tables_are_the_ports(graph: str, tiny_draft: Path) -> None:
    geometry = Eagle3Layout.of(Checkpoint.open(tiny_draft)).geometry
    ports = combine_ports(geometry) if graph == "combine" else step_ports(geometry, takes_embeds=False, has_head=True)
    assert rows(graph) == described(ports)


def test_the_page_states_opset_and_bound() -> None:
    assert f"Opset {OPSET}," in PAGE
    assert f"more than {LOGIT_BOUND:g} standard deviations" in PAGE
    assert f"within {TIE:.5f} of the token's largest" in PAGE


def test_the_python_of_the_page_opens_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quark_eagle.onnx_export.export import export
    from tests.onnx_export.quantized import write_fp8_draft
    from tests.tiny import write_tiny_draft

    export(write_fp8_draft(write_tiny_draft(tmp_path / "bf16"), tmp_path / "fp8"), tmp_path / "onnx")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert example
    names: dict[str, object] = {}
    exec(example.group(1), names)
    assert "past_key_values.0.key" in {it.name for it in names["step"].get_inputs()}  # type: ignore[attr-defined]
