"""The table of docs/reference/families.md, made of what the code says: `python -m tests.families_table`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from quark_eagle.checkpoint.layout import Eagle3Layout, Role
from quark_eagle.checkpoint.reader import Checkpoint
from quark_eagle.checkpoint.support import not_replayed
from quark_eagle.deploy.loadable import Loadable
from quark_eagle.quantize.plan import QuantPlan
from quark_eagle.quantize.scheme import Scheme
from tests.published import NOT_LOADED, NOT_REPLAYED, PUBLISHED
from tests.tiny import write_tiny_draft

HEADER = (
    "| draft | family, names | linears in FP8 | vLLM 0.32 loads it | replay | every step held against vLLM's own |",
    "| --- | --- | --- | --- | --- | --- |",
)
ENGINE = "0.32.0"


def table() -> str:
    """The table in Markdown."""
    return "\n".join([*HEADER, *rows()])


def rows() -> Iterator[str]:
    """One line for each draft."""
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, draft) in enumerate(PUBLISHED.items()):
            checkpoint = Checkpoint.open(write_tiny_draft(Path(scratch) / f"{i}", draft))
            layout = Eagle3Layout.of(checkpoint)
            plan = QuantPlan.of(layout, Scheme.PTPC_FP8, keep=[], quantize_fc=False)
            linears = [name for name, slot in layout.slots.items() if slot.role in (Role.LINEAR, Role.KV_B, Role.FC)]
            fp8 = sum(decision.action == "quantize" for decision in plan.decisions)
            loadable, reasons = Loadable.of(checkpoint, ENGINE), not_replayed(checkpoint, layout)
            held = name not in (*NOT_LOADED, *NOT_REPLAYED)
            cells = (
                name,
                f"{layout.family.value}, {layout.convention.value}",
                f"{fp8} of {len(linears)}",
                "no" if loadable.reasons else "yes",
                "no" if reasons else "yes",
                "yes" if held else "",
            )
            yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table())
