"""A recipe's mistakes are told all at once, each with its line and what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quark_eagle.errors import StorageError, UsageError
from quark_eagle.job.places import is_hub_id, unpinned
from quark_eagle.job.reading import read_recipe
from quark_eagle.job.recipe import Recipe
from quark_eagle.job.writing import to_toml
from tests.job.world import JOB, World

SIGNED = 'draft = "draft"\ntarget = "target"\n[release]\nsigning_key = "key.pem"\n'


def refused(directory: Path, text: str) -> list[str]:
    """What is said of a recipe, a finding each."""
    path = World.made(directory / "world", text).recipe
    with pytest.raises(UsageError) as error:
        read_recipe(path)
    said = str(error.value).removesuffix(" Nothing was run. Correct the recipe.").removeprefix(f"{path}: ")
    return [line.removeprefix("  - ") for line in said.splitlines() if not re.match(r"\d+ problems|Nothing was", line)]


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        'draft = "draft"\ntarget = "nowhere"\nmargin = 0.01\n\n[gate]\nmagrin = 0.01\nalpha = 0.2\n\n'
        '[quantize]\nkeep = [\n  "a",\n  7,\n]\nscheme = "fp4"\n\n[release]\nsigning_key = "no.pem"\n[engin]\n',
    )
    assert [line.split(":")[0] for line in said] == [
        "line 2, target",
        "line 3, margin",
        "line 6, [gate] magrin",
        "line 7, [gate] alpha",
        "line 10, [quantize] keep",
        "line 14, [quantize] scheme",
        "line 17, [release] signing_key",
        "line 18, engin",
    ]
    assert "does not exist" in said[0]
    assert said[1].endswith("is not known. It belongs into [gate].")
    assert said[2].endswith("is not known. Did you mean margin?")
    assert "less than or equal to 0.05" in said[3]
    assert "ptpc_fp8" in said[5]
    assert said[7].endswith("Did you mean engine?")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('target = "target"\n', "draft", "BF16 draft was needed"),
        ('draft = "draft"\n[quantize]\nscheme = "fp8"\n', "[calibration] trace", "neither a trace"),
        ('draft = "draft"\n[calibration]\ntokens = 5\n', "line 3, [calibration] tokens", "nothing to calibrate"),
        ('draft = "draft"\n[prompts]\nlimit = 5\n', "line 3, [prompts] limit", "nothing is measured here"),
        ('draft = "draft"\ntarget = "target"\n[engine]\nblocks = 4\n', "line 4, [engine] blocks", 'name = "vllm"'),
        ('draft = "draft"\n[release]\n', "line 2, [release]", "nothing is measured"),
        (
            'draft = "draft"\ntarget = "target"\n[outputs]\nbundle = "b"\n',
            "line 4, [outputs] bundle",
            "without a table",
        ),
        ('draft = "draft"\ntarget = "target"\ntrace = "draft"\n', "line 3, trace", "recorded already"),
        ('draft = "draft"\nfp8 = "target"\n[quantize]\nkeep = ["a"]\n', "line 4, [quantize] keep", "quantized already"),
        ('draft = "draft"\n[outputs]\nfp8 = "draft"\n', "line 3, [outputs] fp8", "is draft, or inside it"),
        ('draft = "draft"\n[outputs]\nfp8 = "key.pem/x"\n', "line 3, [outputs] fp8", "is a file"),
        (SIGNED, "line 4, [release] signing_key", "public_key was needed with it"),
        (f"{SIGNED}keyless = true\n", "line 5, [release] keyless", "one signature"),
        (f'{SIGNED}signing_certificate = "key.pem"\n', "line 5, [release] signing_certificate", "certificate_chain"),
        (f'{SIGNED}certificate_chain = ["key.pem"]\n', "line 4, [release] signing_key", "public_key was needed"),
        (
            f"{SIGNED.replace('signing_key', 'public_key')}",
            "line 4, [release] public_key",
            "nothing is signed without signing_key",
        ),
        (f'{SIGNED}identity = "me"\npublic_key = "key.pem"\n', "line 5, [release] identity", "keyless = true"),
        (
            'draft = "draft"\ntarget = "target"\n[gate]\nmargin = 0.1\ncategory_margin = 0.05\n',
            "line 5",
            "0.05 was found",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, text: str, where: str, what: str) -> None:
    said = refused(tmp_path, text)
    assert said[0].startswith(where)
    assert what in said[0]


def test_two_outputs_in_one_place_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, 'draft = "draft"\ntarget = "target"\n[outputs]\nverdict = "a"\njunit = "a"\n')
    assert "is outputs.verdict" in said[0]


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (said,) = refused(tmp_path, 'draft = "draft"\n[gate\n')
    assert "line 2" in said


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="a recipe in TOML was needed"):
        read_recipe(tmp_path / "job.toml")


def test_a_slip_in_a_path_is_no_hub_id(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path, 'draft = "draft/eagle"\n')[0]


def test_a_hub_id_need_not_be_on_the_disk(tmp_path: Path) -> None:
    path = World.made(tmp_path / "world", 'draft = "owner/eagle3@v1"\n').recipe
    assert read_recipe(path).draft == "owner/eagle3@v1"


def test_writing_and_reading_give_the_same_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(World.made(tmp_path / "world", JOB).recipe)
    again = World.made(tmp_path / "again", to_toml(recipe, "a comment")).recipe
    assert read_recipe(again) == recipe
    assert again.read_text().startswith("# a comment\n")


def uncommented(text: str) -> str:
    """An example with everything that it offers said."""
    return re.sub(r"^(?:#: |# (?=\[))", "", text, flags=re.MULTILINE)


def test_the_example_offers_every_key_there_is_and_no_other(repository: Path) -> None:
    import tomlkit

    said = tomlkit.parse(uncommented((repository / "examples" / "job.toml").read_text())).unwrap()
    for name, field in Recipe.model_fields.items():
        assert name in said
        inner = next(
            (it for it in (field.annotation, *getattr(field.annotation, "__args__", ())) if it is not None), None
        )
        if hasattr(inner, "model_fields"):
            assert set(said[name]) == set(inner.model_fields), name
    assert set(said) == set(Recipe.model_fields)


def test_the_example_as_it_stands_lacks_only_its_models(repository: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_recipe(repository / "examples" / "job.toml")
    found = [line.strip() for line in str(error.value).splitlines()[1:-1]]
    assert [line.split(":")[0] for line in found] == ["- line 10, draft", "- line 11, target"]
    assert all("does not exist" in line for line in found)


@pytest.mark.parametrize("key", ["draft", "target", "trace", "fp8"])
def test_a_path_that_no_file_system_holds_is_not_there(tmp_path: Path, key: str) -> None:
    assert any("does not exist" in line for line in refused(tmp_path, f'{key} = "./{"x" * 300}"\n'))


def test_an_id_may_have_any_length(tmp_path: Path) -> None:
    assert is_hub_id(f"{'x' * 300}/y", tmp_path)


def test_an_output_that_no_file_system_holds_is_refused(tmp_path: Path) -> None:
    (said,) = refused(tmp_path, f'draft = "draft"\n[outputs]\nfp8 = "work/{"x" * 300}"\n')
    assert said.startswith("line 3, [outputs] fp8")
    assert "255 bytes" in said


def test_a_nul_is_refused(tmp_path: Path) -> None:
    (said,) = refused(tmp_path, 'draft = "dr\\u0000aft"\n')
    assert "without NUL" in said
    with pytest.raises(StorageError, match="could not be read"):
        read_recipe(tmp_path / "job\0.toml")


@pytest.mark.parametrize("table", ["gate", "release"])
def test_a_table_is_asked_for_by_name(tmp_path: Path, table: str) -> None:
    (said,) = refused(tmp_path, f'{table} = 3\ndraft = "draft"\n')
    assert said == f"line 1, [{table}]: 3 was found, but a table [{table}] was needed."


def test_an_id_without_a_revision_is_told(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"draft": "owner/draft", "target": "owner/target@v1"})
    assert unpinned(recipe, tmp_path) == ["owner/draft"]
