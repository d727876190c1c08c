"""bom.cdx.json: what the released draft is made of and what it was made with, as a CycloneDX 1.6 ML-BOM.

    the draft        a machine-learning-model, its files and the evidence about them by their SHA-256, its model card
    made from        the BF16 draft, as the ancestor in its pedigree
    depends on       the target: with another one it has nothing accepted
    measured with    the prompts and the trace, as data that the model card refers to
    made with        the libraries that quantized, out of scope at run time

Everything is built through cyclonedx-python-lib, but for one thing that it does not model (11.12.0,
`model/component.py`: `model_card` is commented out): the model card of a component. That is added to the JSON that the
library wrote, and the whole is held against the library's own schema, which knows it. Identifiers, order and time come
from the evidence, so the same evidence gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from quark_eagle.checkpoint.manifest import RECORD_NAME, FileDigest, Manifest, digest
from quark_eagle.documents.release import DraftIdentity
from quark_eagle.errors import QuarkEagleError, findings
from quark_eagle.release import contents
from quark_eagle.release.bom_model_card import model_card
from quark_eagle.release.evidence import Evidence

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

ROOT = "draft"
TARGET = "target"
PROMPTS = "prompts"
TRACE = "trace"
CALIBRATION = "calibration-prompts"
_NAMESPACE = uuid5(NAMESPACE_URL, "urn:quark-eagle:bom")
_QUANTIZED_WITH = ("quark-eagle", "amd-quark", "torch", "safetensors")  # packages on PyPI; the record names Python too
_LONGEST_VERSION = 1024  # of CycloneDX 1.6
_SHOWN_PROBLEMS = 10


def bill_of_materials(evidence: Evidence) -> str:
    """The text of bom.cdx.json.

    Raises:
        QuarkEagleError: the evidence makes no valid one.
    """
    from cyclonedx.output.json import JsonV1Dot6

    document = json.loads(JsonV1Dot6(_bom(evidence)).output_as_string())
    document["metadata"]["component"]["modelCard"] = model_card(evidence, _datasets(evidence))
    # Of everything but itself: two documents that say the same have the same number, and no others.
    del document["serialNumber"]
    said = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    document["serialNumber"] = uuid5(_NAMESPACE, hashlib.sha256(said).hexdigest()).urn
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if problems := invalid(text):
        raise QuarkEagleError(findings(contents.BOM, problems, "What it is made of cannot be said in CycloneDX 1.6."))
    return text


def invalid(text: str) -> list[str]:
    """Where a text is no CycloneDX 1.6 document, strictly and with no network; empty if it is one."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text, all_errors=True) or ()
        found = [f"{'.'.join(map(str, it.data.absolute_path)) or 'document'}: {it.data.message[:300]}" for it in errors]
    except (ValueError, RecursionError) as error:  # the validator reads any JSON, and does not guard its reading
        return [f"is no JSON that can be read ({error})."]
    return found[:_SHOWN_PROBLEMS]


def _bom(evidence: Evidence) -> Bom:
    """All that the library models; its serial number is a placeholder."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.tool import ToolRepository

    released = datetime.fromisoformat(evidence.release.released).replace(tzinfo=timezone.utc)
    draft, target = _draft(evidence), _target(evidence)
    by = _package("quark-eagle", evidence.environment.released.get("quark_eagle", "unknown"), prefix="by")
    bom = Bom(
        serial_number=UUID(int=0),
        metadata=BomMetaData(component=draft, timestamp=released, tools=ToolRepository(components=[by])),
        components=[target, *_data(evidence), *_libraries(evidence)],
    )
    bom.register_dependency(draft, [target])
    return bom


def _draft(evidence: Evidence) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    release = evidence.release
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ROOT,
        name=release.name,
        version=release.released,
        description=f"Eagle3 draft for {release.target}, quantized to FP8 ({evidence.record['plan'].get('scheme')}).",
        licenses=[LicenseFactory().make_from_string(release.license)] if release.license else [],
        purl=_hub(release.repo_id, None),
        components=list(_files(evidence)),
        pedigree=Pedigree(ancestors=[_base_model(evidence)], notes=_notes(evidence)),
        properties=_identity(release.bound_to.candidate),
    )


def _base_model(evidence: Evidence) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    release = evidence.release
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base-model",
        name=release.base_model,
        version=(release.base_model_revision or "")[:_LONGEST_VERSION] or None,
        purl=_hub(release.base_model_id, release.base_model_revision),
        properties=_identity(release.bound_to.baseline),
    )


def _notes(evidence: Evidence) -> str:
    decisions = [it["action"] for it in evidence.record["plan"]["decisions"]]
    return (
        f"{decisions.count('quantize')} of {len(decisions)} tensors were quantized to FP8, the others kept byte for "
        f"byte; {RECORD_NAME} says which, and why."
    )


def _files(evidence: Evidence) -> Iterator[Component]:
    """The checkpoint's files as the record has them, and of the evidence what is not rendered from it."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    files: dict[str, FileDigest] = dict(Manifest.from_json(evidence.record["output"]).files)
    for path in (evidence.directory / RECORD_NAME, *sorted((evidence.directory / contents.EVIDENCE).glob("*.json"))):
        files[path.relative_to(evidence.directory).as_posix()] = digest(path)
    for name, file in sorted(files.items()):
        yield Component(
            type=ComponentType.FILE,
            bom_ref=f"file:{name}",
            name=name,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
            properties=_properties({"size_bytes": str(file.size_bytes)}),
        )


def _target(evidence: Evidence) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    bound = evidence.release.bound_to
    known = {"config_sha256": bound.target_config_sha256, "weights_sha256": bound.target_weights_sha256}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=TARGET,
        name=evidence.release.target,
        description="The target: the model that the draft proposes tokens to.",
        purl=_hub(evidence.release.target_id, None),
        properties=_properties(known),
    )


def _data(evidence: Evidence) -> Iterator[Component]:
    """Prompts by the hash of their ids and texts, a trace by its file's."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    bound, prompts = evidence.release.bound_to, evidence.parity.prompts
    yield Component(
        type=ComponentType.DATA,
        bom_ref=PROMPTS,
        name="prompts of the measurement",
        description=f"The {len(prompts)} prompts on which the FP8 draft was compared with the BF16 draft.",
        properties=_properties({"prompts_sha256": bound.prompts_sha256}),
    )
    if bound.trace_sha256 is not None:
        yield Component(
            type=ComponentType.DATA,
            bom_ref=TRACE,
            name="trace.json",
            description="What the target did on these prompts; both drafts were replayed over it.",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=bound.trace_sha256)],
        )
    if evidence.calibration is not None:
        number = len(evidence.calibration.prompts)
        yield Component(
            type=ComponentType.DATA,
            bom_ref=CALIBRATION,
            name="prompts of the calibration",
            description=f"The {number} prompts on which static activation scales were observed; none was measured on.",
            properties=_properties({"prompts_sha256": evidence.calibration.prompts_sha256}),
        )


def _datasets(evidence: Evidence) -> list[str]:
    """What `_data` made, by reference."""
    return [str(component.bom_ref.value) for component in _data(evidence)]


def _libraries(evidence: Evidence) -> list[Component]:
    """What quantized, with its versions; nothing of it is needed to run the draft."""
    versions = evidence.environment.quantized
    return [_package(name, versions[name], prefix="with") for name in _QUANTIZED_WITH if name in versions]


def _package(name: str, version: str, *, prefix: str) -> Component:
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=f"{prefix}:{name}",
        name=name,
        version=version[:_LONGEST_VERSION],
        scope=ComponentScope.EXCLUDED,
        purl=PackageURL(type="pypi", name=name, version=version),
    )


def _hub(repo_id: str | None, revision: str | None) -> PackageURL | None:
    """The package URL of a repository on the hub; its version is a commit (package-url, type ``huggingface``)."""
    from packageurl import PackageURL

    if repo_id is None:
        return None
    owner, name = repo_id.split("/")
    return PackageURL(type="huggingface", namespace=owner, name=name, version=revision)


def _identity(draft: DraftIdentity) -> list[Property]:
    return _properties({"weights_sha256": draft.weights_sha256, "config_sha256": draft.config_sha256})


def _properties(values: Mapping[str, Any]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"quark-eagle:{name}", value=value) for name, value in values.items() if value is not None]
