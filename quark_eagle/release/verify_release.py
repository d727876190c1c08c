"""verify_release(): is a bundle as it was released? Every check, every difference, and with no network.

Nothing in a bundle is trusted. A file is read after it was seen to be a plain file inside, JSON after it was seen to be
JSON that a release could have written, and a signature before anybody believes it.

What is caught, by what whoever changes a bundle goes on to rewrite (`tests/release/test_tampering.py` holds this table
against the code, row by row):

    ==========================================  ==============  ==============  ===========
    changed                                     nothing more    SHA256SUMS too  and signed
    ==========================================  ==============  ==============  ===========
    one byte in a weight                        caught          caught          caught
    two shards exchanged                        caught          caught          caught
    config.json of another draft                caught          caught          caught
    a count in the measurement                  caught          caught          caught
    the outcome in the verdict                  caught          caught          caught
    an override taken out of the record         caught          caught          caught
    a number in the card                        caught          caught          caught
    report.html                                 caught          caught          caught
    bom.cdx.json                                caught          caught          caught
    quark_eagle.json                            caught          caught          caught
    a file taken away                           caught          caught          caught
    a file put in                               caught          caught          caught
    a symbolic link for a file                  caught          caught          caught
    a path in SHA256SUMS that leaves            caught          caught          caught
    the licence, and all that is rendered       caught          not caught      caught
    overrides taken out, another version named  caught          caught          caught
    an override reworded, another version       caught          left open       caught
    the card, and another version named         caught          left open       caught
    reproduce.sh, and another version named     caught          left open       caught
    a headline, and another version named       caught          left open       caught
    another draft, released anew                not caught      not caught      caught
    the signature taken away                    not applicable  not applicable  caught
    a signature by another key                  not applicable  not applicable  caught
    ==========================================  ==============  ==============  ===========

"Left open" is exit code 5: what another version worded cannot be made again here, and whoever changes it may name any.
Only where a signature that was asked for holds does its signer vouch for it.

"And signed" is a bundle with a signature that is checked with the signer's key. Without a key, whoever makes everything
anew from other counts is believed: only a signature, or measuring again, tells who says so.
"""

from __future__ import annotations

from pathlib import Path

from quark_eagle import __version__
from quark_eagle.documents.release_check import EXIT_CODES, Check, Name, ReleaseCheck, outcome_of
from quark_eagle.errors import QuarkEagleError, StorageError
from quark_eagle.progress import SILENT, Progress
from quark_eagle.release import contents
from quark_eagle.release.checking import CHECKS, Asked, LeftOpenError, Opened
from quark_eagle.release.checksums import shown


def verify_release(bundle: Path, asked: Asked | None = None, progress: Progress = SILENT) -> ReleaseCheck:
    """Check everything about a bundle that can be checked offline.

    Args:
        bundle: its directory.
        asked: what is to be checked beyond what every bundle is checked for.
        progress: told of the bytes that are read.

    Raises:
        QuarkEagleError: there is no bundle to check.
        UsageError: a key or certificate is none.
        StorageError: the bundle may not be read.
    """
    if not any((bundle / name).is_file() for name in (contents.SUMS, contents.RELEASE)):
        raise QuarkEagleError(
            f"{bundle}: is no bundle: it holds neither {contents.SUMS} nor {contents.RELEASE}. "
            "Point at a directory that `quark-eagle release` wrote."
        )
    # A link to a bundle is as good as the bundle; a link in it is not.
    opened = Opened(bundle.resolve(), asked or Asked(), progress)
    checks = [_check(name, opened) for name in CHECKS if opened.is_wanted(name)]
    outcome = outcome_of(checks)
    release = opened.evidence.release if opened.has_evidence else None
    return ReleaseCheck(
        schema_version=1,
        bundle=str(bundle),
        release=None if release is None else release.name,
        made_by=None if release is None else shown(release.versions.get("quark_eagle", "unknown")),
        checked_by=__version__,
        overrides=[] if release is None else [shown(override) for override in release.overrides],
        beside=list(opened.found.beside),
        outcome=outcome,
        exit_code=EXIT_CODES[outcome],
        checks=checks,
    )


def _check(name: Name, opened: Opened) -> Check:
    """One check, whatever it meets."""
    try:
        answer = CHECKS[name](opened)
    except LeftOpenError as left:
        return Check(name=name, status="not checked", asked=left.asked, says=shown(str(left)), differences=[])
    except StorageError as error:
        return Check(name=name, status="not checked", asked=True, says=shown(str(error)), differences=[])
    except QuarkEagleError as error:
        differences = [shown(str(error).replace(f"{opened.directory}/", "").replace("\n", " "))]
    else:
        differences = [shown(difference) for difference in answer.differences]
        if not differences:
            return Check(name=name, status="ok", asked=True, says=shown(answer.holds), differences=[])
    number = f"{len(differences)} difference{'s' if len(differences) != 1 else ''}."
    return Check(name=name, status="not ok", asked=True, says=number, differences=differences)
