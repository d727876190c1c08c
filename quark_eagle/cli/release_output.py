"""What `release` says: what is in the bundle, how to check it and how to publish it; or everything against it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from quark_eagle.cli import render

if TYPE_CHECKING:
    from quark_eagle.release.bundle import Order, Released
    from quark_eagle.release.examining import Examination


def show(made: Released, order: Order, json_: bool) -> None:
    """The bundle that was made."""
    check, upload = _check(made, order), _upload(made)
    if json_:
        render.emit_json(
            {
                "bundle": str(made.directory),
                "release": made.release.model_dump(mode="json"),
                "files": made.files.to_json(),
                "is_signed": made.is_signed,
                "check": check,
                "upload": upload,
            }
        )
        return
    for override in made.release.overrides:
        render.warn(override)
    rows = [(path, what, render.size(size)) for path, what, size in _contents(made)]
    render.show(render.table(["in the bundle", "what it is", "size"], rows, right=(2,)))
    license = made.release.license
    told = (
        f"{license} ({made.release.license_source})" if license else "not known: the card says so; --license names it"
    )
    render.say(f"\nLicence: {told}")
    render.say(f"Released: {made.directory}{'' if made.is_signed else ', not signed (--signing-key signs it)'}")
    render.say(f"Check it: {check}")
    render.say(f"Publish it: {upload}")


def show_refusal(found: Examination, checkpoint: Path, json_: bool) -> None:
    """Everything that speaks against a release."""
    if json_:
        objections = [{"says": it.says, "exit_code": it.exit_code} for it in found.objections]
        render.emit_json({"bundle": None, "exit_code": found.exit_code, "objections": objections})
        return
    many = f"{len(found.objections)} objections" if len(found.objections) > 1 else "one objection"
    render.say(f"NOT RELEASED: {checkpoint}: {many}. Nothing was written.")
    for sentence in found.sentences():
        render.say(f"  - {sentence}")
    if found.is_unbound:
        render.say(
            "Evidence about other bytes tells nothing of these, and nobody can set that aside. Measure these: "
            "quark-eagle parity DRAFT OUT --trace TRACE"
        )


def _contents(made: Released) -> list[tuple[str, str, int]]:
    """(path, what it is, bytes) of every file, the checkpoint's first."""
    from quark_eagle.release import contents

    known = {
        contents.CARD: "model card",
        contents.REPORT: "report, one page for a browser",
        contents.BOM: "bill of materials, CycloneDX",
        contents.SCRIPT: "makes and judges it again",
        contents.RELEASE: "what is released, and what it is bound to",
        contents.PARITY: "the measurement that was judged",
        contents.REPLAYED: "replay of the same drafts",
        contents.SERVED: "the same drafts served",
        contents.VERDICT: "the verdict",
        contents.VERIFICATION: "what an engine does with every module",
        contents.WEIGHTS: "bytes, scales and errors of every tensor",
        contents.ENVIRONMENT: "with what it was made",
        contents.CALIBRATION: "what static scales were observed on",
    }
    files = made.files.files
    ordered = sorted(
        files, key=lambda path: (not contents.is_checkpoint_file(path), path.startswith("evidence/"), path)
    )
    rows = [(path, known.get(path, "the checkpoint"), files[path].size_bytes) for path in ordered]
    last = {contents.SUMS: "hashes of all of them", contents.SIGNATURE: "signature over all of it"}
    present = [path for path in last if (made.directory / path).is_file()]
    return rows + [(path, last[path], (made.directory / path).stat().st_size) for path in present]


def _check(made: Released, order: Order) -> str:
    """The command by which others check it, with the public half of what signed it."""
    from quark_eagle.release.signature import PrivateKey

    command = f"quark-eagle verify-release {shlex.quote(str(made.directory))}"
    if not isinstance(order.signer, PrivateKey):
        return command if order.signer is None else f"{command} --identity YOU --identity-provider ISSUER"
    if order.signer.certificate is not None:
        return f"{command} --certificate-chain ROOT.pem"
    return f"{command} --public-key PUBLIC.pem"


def _upload(made: Released) -> str:
    """By the hub's own command, ``hf upload REPO_ID LOCAL_PATH PATH_IN_REPO`` (huggingface_hub, cli/upload.py)."""
    return f"hf upload {made.release.repo_id or 'OWNER/NAME'} {shlex.quote(str(made.directory))} ."
