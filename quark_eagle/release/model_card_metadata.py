"""The model card's metadata: what the Hugging Face hub searches and links by.

``ModelCardData.to_dict`` leaves out what is None, and ``to_yaml`` keeps the order of its fields with the further ones
after them (huggingface_hub 1.33, `repocard_data.py`), so that the same evidence gives the same text.

There is no ``model-index``: an `EvalResult` names a data set and a metric of the hub's, and holds one number. Neither
these prompts nor τ are among them, and τ of one draft, without the other's and an interval, would say nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quark_eagle.release.evidence import Evidence
from quark_eagle.release.model_card_text import visible

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TAGS = ("eagle3", "speculative-decoding", "draft", "fp8", "quark")
LIBRARY = "vllm"
"""What loads it; transformers has no class for an Eagle3 draft."""


def metadata(evidence: Evidence) -> ModelCardData:
    """The metadata of a release. A base model that is not known to be on the hub is named on the page alone."""
    from huggingface_hub import ModelCardData

    release, plan = evidence.release, evidence.record["plan"]
    made_by = [str(plan[key]) for key in ("scheme", "format") if key in plan]
    return ModelCardData(
        base_model=None if release.base_model_id is None else visible(release.base_model_id),
        base_model_relation=None if release.base_model_id is None else "quantized",
        library_name=LIBRARY,
        license=None if release.license is None else visible(release.license),
        tags=[*TAGS, *map(visible, made_by)],
    )
