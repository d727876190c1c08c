"""The card says what the evidence says: every number again from the raw files, and no stranger's name as markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from quark_eagle.cli.app import app
from quark_eagle.release import contents
from quark_eagle.release.model_card import model_card
from tests.release import recomputed
from tests.release.made_evidence import HOSTILE, VARIANTS, evidence_of
from tests.release.strays import FENCE, spaced, strays
from tests.reports import UNCLEAR, report, verdict_on

Bundle = Callable[[str], Path]
Rows = list[list[str]]


@pytest.fixture(scope="module")
def card(made_bundle: Bundle) -> Callable[[str], str]:
    """The card of the bundle of a kind, rendered once."""
    rendered: dict[str, str] = {}

    def of(variant: str = "pass") -> str:
        if variant not in rendered:
            rendered[variant] = model_card(evidence_of(made_bundle(variant)))
        return rendered[variant]

    return of


Card = Callable[[str], str]


def page(text: str) -> str:
    """The card without its metadata."""
    return text.split("\n---\n", 1)[1]


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    found = re.split(rf"^#+ {re.escape(title)}$", text, flags=re.MULTILINE)[1]
    return re.split(r"^#+ ", found, flags=re.MULTILINE)[0]


def tables(text: str) -> list[Rows]:
    """The cells of every table without its rule, the head first."""
    blocks = re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.MULTILINE)
    return [[_cells(line) for place, line in enumerate(it.splitlines()) if place != 1] for it in blocks]


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# --- what it is as a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hub_reads_it_and_it_is_the_same_whenever_it_is_rendered(
    made_bundle: Bundle, card: Card, tmp_path: Path, variant: str
) -> None:
    text = card(variant)
    assert text == model_card(evidence_of(made_bundle(variant)))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    path = tmp_path / contents.CARD
    path.write_text(text, encoding="utf-8")
    loaded = ModelCard.load(path)
    assert str(loaded) == text  # the hub's own library would write what it read
    assert "eagle3" in loaded.data.tags


def test_its_metadata_is_what_is_known_and_nothing_else(card: Card) -> None:
    assert ModelCard(card("pass")).data.to_dict() == {
        "base_model": "owner/tiny-eagle3",
        "base_model_relation": "quantized",
        "library_name": "vllm",
        "license": "mit",
        "tags": ["eagle3", "speculative-decoding", "draft", "fp8", "quark", "ptpc_fp8"],
    }
    assert "license" not in ModelCard(card("override")).data.to_dict()
    known = ModelCard(card("hostile")).data.to_dict()
    assert known["license"] == "no"  # a name, not YAML's false
    assert not known.keys() & {"base_model", "base_model_relation"}  # a name alone links to nothing
    assert "fp8" in ModelCard(card("static")).data.tags


def test_what_was_set_aside_stands_above_everything(card: Card) -> None:
    text = page(card("override")).lstrip("\n")
    assert text.startswith("> [!WARNING]\n")
    box = text.split("\n\n")[0]
    assert "This draft failed its gate" in box
    assert "Nothing was measured on gfx950" in box
    assert "**FAIL: " in text
    assert page(card("pass")).lstrip("\n").startswith("# tiny-eagle3-fp8\n")


def test_no_path_of_the_machine_it_was_made_on(card: Card) -> None:
    for variant in VARIANTS:
        assert "/home/releaser" not in card(variant)


# --- its numbers, by a second road ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_and_rates_are_those_of_the_prompts(made_bundle: Bundle, card: Card, variant: str) -> None:
    measured = recomputed.read(made_bundle(variant), contents.PARITY)
    prompts, k = measured["prompts"], measured["num_speculative_tokens"]
    total = {arm: recomputed.histogram(prompts, arm) for arm in recomputed.ARMS}
    _, *drafts = tables(section(card(variant), "What was measured"))[0]
    for row, arm in zip(drafts, recomputed.ARMS, strict=True):
        rounds, accepted = recomputed.rounds_and_accepted(total[arm])
        expected = [spaced(rounds), spaced(accepted), f"{1 + accepted / rounds:.3f}", f"{accepted / rounds / k:.3f}"]
        assert row[1:] == expected
    before, after = (recomputed.tau(total[arm]) for arm in recomputed.ARMS)
    glance = dict(tables(card(variant))[0])
    assert glance["acceptance length τ"].startswith(f"{before:.3f} before, {after:.3f} after")
    assert glance["change of τ"].startswith(f"{after / before - 1:+.2%}, 90% interval ")
    _, *positions = tables(section(card(variant), "By position"))[0]
    assert [row[0] for row in positions] == [str(i) for i in range(k)]
    for i, row in enumerate(positions):
        shares = []
        for cell, alone, arm in zip(row[1:3], row[5:7], recomputed.ARMS, strict=True):
            reached, of = recomputed.reaching(total[arm], i), sum(total[arm])
            assert cell == f"{reached / of:.3f} ({spaced(reached)} of {spaced(of)})"
            assert alone == f"{reached / (recomputed.reaching(total[arm], i - 1)):.3f}"
            shares.append(reached / of)
        assert row[3] == f"{shares[1] - shares[0]:+.4f}"


@pytest.mark.parametrize("variant", ["pass", "override", "static"])
def test_intervals_are_those_of_the_delta_method_written_out(made_bundle: Bundle, card: Card, variant: str) -> None:
    prompts = recomputed.read(made_bundle(variant), contents.PARITY)["prompts"]
    _, *positions = tables(section(card(variant), "By position"))[0]
    for i, row in enumerate(positions):
        assert row[4] == " … ".join(f"{end:+.4f}" for end in recomputed.position_interval(prompts, i, 0.90))
    facts = tables(section(card(variant), "What was measured"))[1]
    second = next(row[1] for row in facts if row[0] == "90% interval" and "delta method" in row[1])
    assert second.startswith(" … ".join(f"{end:+.2%}" for end in recomputed.tau_interval(prompts, 0.90)))


def test_categories_are_those_of_their_own_prompts(made_bundle: Bundle, card: Card) -> None:
    prompts = recomputed.read(made_bundle("static"), contents.PARITY)["prompts"]
    categories = {it["name"]: it for it in recomputed.read(made_bundle("static"), contents.VERDICT)["categories"]}
    head, *rows = tables(section(card("static"), "By category"))[0]
    assert head[6:8] == ["margin", "outcome"]  # they gate in this release
    assert [row[0] for row in rows] == sorted({prompt["category"] for prompt in prompts})
    for name, number, before, after, change, interval, *_ in rows:
        own = [prompt for prompt in prompts if prompt["category"] == name]
        taus = [recomputed.tau(recomputed.histogram(own, arm)) for arm in recomputed.ARMS]
        assert [number, before, after] == [str(len(own)), f"{taus[0]:.3f}", f"{taus[1]:.3f}"]
        assert change == f"{taus[1] / taus[0] - 1:+.2%}"
        ends = categories[name]["difference"]["interval"]
        assert interval == f"{ends['low']:+.2%} … {ends['high']:+.2%}"
    assert len(tables(section(card("pass"), "By category"))[0][0]) == 6  # and in this one they do not


@pytest.mark.parametrize("variant", ["pass", "static", "two layers"])
def test_bytes_are_those_of_the_files(made_bundle: Bundle, card: Card, variant: str) -> None:
    bundle = made_bundle(variant)
    before = recomputed.tensors(bundle.with_name(f"{bundle.name}.draft"))
    after = recomputed.tensors(bundle)
    _, *rows, total = tables(section(card(variant), "What was quantized"))[0]
    assert total[1:5] == [str(len(before)), "", *(spaced(sum(n for _, n in it.values())) for it in (before, after))]
    quantized = [row for row in rows if row[0] == "quantized"]
    fp8 = [name for name, (dtype, _) in after.items() if dtype == "F8_E4M3"]
    scales = [name for name in after if name not in before]
    assert sum(int(row[1]) for row in quantized) == len(fp8)
    assert sum(int(row[3].replace(" ", "")) for row in quantized) == sum(before[name][1] for name in fp8)
    assert sum(int(row[4].replace(" ", "")) for row in quantized) == sum(after[name][1] for name in [*fp8, *scales])
    kept = {name for name in before if name not in fp8}
    assert sum(int(row[1]) for row in rows if row[0] == "kept") == len(kept)
    ends = [sum(n for _, n in it.values()) for it in (before, after)]
    assert f"{ends[1] / ends[0] - 1:+.1%}" in dict(tables(card(variant))[0])["weights on disk"]


def test_a_draft_of_many_tensors_is_still_a_short_table(card: Card) -> None:
    assert len(tables(section(card("two layers"), "What was quantized"))[0]) == len(
        tables(section(card("pass"), "What was quantized"))[0]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_is_in_the_evidence_or_follows_from_it(made_bundle: Bundle, card: Card, variant: str) -> None:
    assert strays(page(card(variant)), made_bundle(variant)) == []


@pytest.mark.parametrize("invented", ["1.234", "+9.99%", "12 345 tokens", "a margin of 7.25%", "0.4999", "8,192"])
def test_a_number_that_nothing_says_is_found(made_bundle: Bundle, card: Card, invented: str) -> None:
    assert strays(f"{page(card('pass'))}\n{invented}\n", made_bundle("pass")) != []


# --- names, serving, limits -----------------------------------------------------------------------------------------


def test_names_are_shown_and_never_markup(card: Card) -> None:
    text = card("hostile")
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for rows in tables(page(text)):
        assert {len(row) for row in rows} == {len(rows[0])}, rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_markdown_parser_finds_no_html_and_only_links_to_the_hub(card: Card, variant: str) -> None:
    found = parsed(card(variant))
    assert not [it for it in found if it.type in ("html_block", "html_inline", "image")]
    links = [str(it.attrs["href"]) for it in found if it.type == "link_open"]
    assert all(link.startswith("https://huggingface.co/") for link in links), links
    kinds = [it.type for it in found if it.type in ("heading_open", "table_open", "fence", "blockquote_open")]
    assert kinds.count("fence") == 2
    assert kinds.count("blockquote_open") == ("overrides" in VARIANTS[variant].release)
    assert kinds.count("table_open") == len(tables(page(card(variant))))


def parsed(text: str) -> list[Token]:
    """Every token of the page, as a parser that lets HTML through sees it."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page(text))
    return [inner for block in blocks for inner in (block, *(block.children or ()))]


@pytest.mark.parametrize("name", ["a\n---\nlicense: mit\n# h", "x\r\n| y |\u2028\u202etxt", HOSTILE, "```", "` `` `"])
def test_no_name_can_begin_a_line_or_end_the_metadata(made_bundle: Bundle, name: str) -> None:
    plain = evidence_of(made_bundle("pass"))
    told = {"name": name, "base_model": name, "target": name, "license": name, "license_source": name}
    spoilt = replace(
        plain,
        release=plain.release.model_copy(update={**told, "overrides": [name]}),
        record={**plain.record, "plan": {**plain.record["plan"], "scheme": name}},
        verification={**plain.verification, "engine": name, "verdict": name},
        verdict=plain.verdict.model_copy(update={"reason": name, "causes": [name]}),
    )
    text, usual = model_card(spoilt), model_card(plain)
    data = ModelCard(text).data.to_dict()
    assert data["license"] == data["tags"][-1] == " ".join(name.replace("\u202e", " ").split())
    unlinked = set() if "/" in name else {"base_model", "base_model_relation"}
    assert data.keys() == ModelCard(usual).data.to_dict().keys() - unlinked
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == [line for line in usual.splitlines() if line.startswith("#")][1:]
    assert not [it for it in parsed(text) if it.type in ("html_block", "html_inline", "image")]
    assert not set("\r\u2028\u202e") & set(text)
    assert text.count("\n```") == usual.count("\n```")


def test_it_serves_as_the_recipe_says(card: Card, made_bundle: Bundle) -> None:
    told = evidence_of(made_bundle("served")).release
    asked = ["recipe", told.target, str(made_bundle("served")), "--gpu", "mi355x", "-k", "3"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    (script, *_) = FENCE.findall(card("served"))
    assert script.splitlines() == [line.replace(str(made_bundle("served")), str(told.repo_id)) for line in lines]
    said = section(card("served"), "How to serve it")
    assert "--trust-remote-code" in said  # Kimi's tokenizer wants it
    assert "k = 3 is what was measured; the recipe's own would be 6." in said


def test_where_it_was_measured_is_told_both_ways(made_bundle: Bundle, card: Card) -> None:
    text = card("served")
    assert "never run on MI355X" in section(text, "How to serve it")
    assert dict(tables(text)[0])["on MI355X"] == "not measured (gfx950)"
    assert "Replayed as well" in text
    assert "It differs from itself" not in card("pass")
    evidence = evidence_of(made_bundle("served"))
    there = evidence.parity.provenance.model_copy(update={"arch": "x86_64 AVX512, gfx950:sramecc+:xnack-"})
    measured = model_card(replace(evidence, parity=evidence.parity.model_copy(update={"provenance": there})))
    assert "never run" not in measured
    assert dict(tables(measured)[0])["on MI355X"] == "all of it was measured there (gfx950)"


def test_a_replay_says_that_nothing_was_served(card: Card) -> None:
    assert "this command was never run for it" in section(card("pass"), "How to serve it")
    assert "not anchored" in section(card("pass"), "What this does not show")
    assert "no latency were measured" in section(card("pass"), "What this does not show")


def test_what_shares_a_scale_is_read_from_the_scales(card: Card) -> None:
    dynamic, static = (section(card(variant), "What was quantized") for variant in ("pass", "static"))
    assert "a scale for each output channel, activations one for each token" in dynamic
    assert "one scale for each tensor, activations a static one for each module" in static


def test_many_findings_are_counted_and_not_all_shown(made_bundle: Bundle) -> None:
    evidence = evidence_of(made_bundle("pass"))
    findings = [{"severity": "warning", "subject": f"layer {i}", "message": "is odd."} for i in range(14)]
    told = {**evidence.verification, "num_warnings": len(findings), "findings": findings}
    shown = section(model_card(replace(evidence, verification=told)), "How it was checked")
    assert shown.count("\n* warning: ") == 10
    assert "0 errors, 14 warnings" in shown
    assert "* and 4 more in `evidence/verification.json`" in shown


def test_static_scales_say_what_they_stand_on(card: Card) -> None:
    rows = dict(tables(section(card("static"), "Calibration"))[0])
    assert rows["observer"].startswith("min_max (PerTensorMinMaxObserver")
    assert rows["prompts"] == "2 of the calibration split; 0 of them were judged on as well"
    assert "+100.00%" in rows["scales"]  # from half of it to the whole, in the second half of the tokens
    assert "## Calibration" not in card("pass")


def test_a_release_without_a_difference_or_with_an_open_one_has_a_card_too(made_bundle: Bundle) -> None:
    evidence = evidence_of(made_bundle("pass"))
    nothing = model_card(replace(evidence, verdict=verdict_on(report(())), parity=report(())))
    assert "**NOT EVALUATED: " in nothing
    assert "Nothing that a verdict could be made of." in nothing
    unclear = report(UNCLEAR)
    assert "**INCONCLUSIVE: " in model_card(replace(evidence, verdict=verdict_on(unclear), parity=unclear))
