"""Who may import whom: the arrows of the package, walked in the syntax tree, so that a forbidden one fails by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "quark_eagle"

# Bottom to top. A layer imports itself and what stands before it; the exceptions follow.
LAYERS = (
    ("errors", "progress"),
    ("documents",),
    ("checkpoint",),
    ("fp8",),
    ("model",),
    ("trace",),
    ("quantize", "parity", "onnx_export"),  # these do not know each other
    ("serve_options",),
    ("checked",),
    ("opening",),
    ("pipeline", "compare"),
    ("job",),
    ("cli",),
)
# These stand on little, and only the pipeline, its values and the command line stand on them.
NARROW = {
    # The second road shares no code with the writer.
    "deploy": ("errors", "progress", "documents", "checkpoint.reader", "deploy"),
    "serving": ("errors", "progress", "serving"),  # runs an engine, and knows neither drafts nor parity
    "throughput": ("errors", "progress", "documents", "serving", "throughput"),
    "worth": ("errors", "documents", "worth"),
    "reporting": ("errors", "documents", "reporting"),  # says what the document says, and can know no more
    # Collects and checks evidence, and measures no drafts: of parity it knows the judging and the explaining, and of
    # serving the recipes, which are data.
    "release": (
        "errors",
        "progress",
        "documents",
        "checkpoint",
        "fp8",
        "parity.arch",
        "parity.explain",
        "parity.gate",
        "parity.positions",
        "parity.summary",
        "parity.verdict",
        "checked",
        "deploy",
        "reporting",
        "serving.recipe_model",
        "serving.recipes",
        "worth",
        "release",
    ),
}
# What only one place may import, at any level.
ONLY_IN = {
    "quark": ("quantize.quark_backend", "quantize.calibration.quark_observers"),
    "vllm": ("deploy.in_vllm", "serving.engine_probe", "throughput.client", "trace.vllm_driver", "trace.vllm_capture"),
    "httpx": ("serving",),
    "prometheus_client": ("serving",),
    "junitparser": ("reporting.junit",),
    "cyclonedx": ("release.bom",),
    "model_signing": ("release.signature", "release.signature_check"),
    "onnx": ("onnx_export",),
    "onnxruntime": ("onnx_export.running",),
    "typer": ("cli",),
    "rich": ("cli",),
    "transformers": ("trace.transformers_target", "trace.transformers_forward", "trace.transformers_cache"),
}
# Imported inside functions only, by these parts.
NEVER_AT_MODULE_LEVEL = {
    "torch": (
        "__init__",
        "errors",
        "progress",
        "documents",
        "checkpoint",
        "deploy",
        "serving",
        "throughput",
        "reporting",
        "job",
        "release",
        "cli",
    ),
    "vllm": ("",),
    "httpx": ("",),
    "prometheus_client": ("",),
    "quark": ("",),
    "pydantic": ("cli", "__init__"),
    "scipy": ("cli", "__init__"),
    "numpy": ("cli", "__init__", "reporting"),
}
# Scripts of the Python that has vLLM: never imported by ours, so that it does not matter when they import what.
NEVER_IMPORTED = ("deploy.in_vllm",)
NUMERICAL_CORE = (
    "fp8",
    "parity.acceptance",
    "parity.categories",
    "parity.delta",
    "parity.gate",
    "parity.bca",
    "parity.paired",
    "parity.power",
    "parity.verdict",
)
CORE_MAY_IMPORT = {"torch", "numpy", "scipy", "quark_eagle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement of one module."""

    importer: str  # dotted, without "quark_eagle."
    imported: str  # dotted, absolute; for `from a import b` both `a` and, if b is a module of ours, `a.b`
    line: int
    at_module_level: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"quark_eagle/{self.importer.replace('.', '/')}.py:{self.line} imports {self.imported}"


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    inside_functions = _lines_of(tree, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for imported in _targets(node, path):
            yield Import(
                importer=name_of(path),
                imported=imported,
                line=node.lineno,  # type: ignore[attr-defined]
                at_module_level=id(node) not in inside_functions,
                for_types_only=id(node) in for_types,
            )


def _lines_of(tree: ast.AST, kinds: tuple[type, ...]) -> set[int]:
    return {id(inner) for outer in ast.walk(tree) if isinstance(outer, kinds) for inner in ast.walk(outer)}


def _targets(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path}:{node.lineno}: a relative import; imports are absolute"
        assert node.module is not None
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if _is_ours(f"{node.module}.{alias.name}"))
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def _is_ours(dotted: str) -> bool:
    head, *rest = dotted.split(".")
    path = PACKAGE.joinpath(*rest)
    return head == "quark_eagle" and (path.is_dir() or path.with_suffix(".py").is_file())


def within(dotted: str, parts: tuple[str, ...]) -> bool:
    """Whether a module is one of these parts, or inside one; the part "" is everything."""
    return any(part == "" or dotted == part or dotted.startswith(f"{part}.") for part in parts)


ALL_IMPORTS = [found for path in modules() for found in imports_of(path)]


def ours(found: Import) -> str | None:
    """The imported module without "quark_eagle.", if it is ours; the bare package counts as nothing."""
    head, _, rest = found.imported.partition(".")
    return rest if head == "quark_eagle" and rest else None


def layer(dotted: str) -> int | None:
    return next((height for height, parts in enumerate(LAYERS) if within(dotted, parts)), None)


def allowed(importer: str, imported: str) -> bool:
    if importer in ("__init__", "__main__"):
        return True  # the façade names everything, lazily
    for part, may in NARROW.items():
        if within(importer, (part,)):
            return within(imported, may)
    mine, theirs = layer(importer), layer(imported)
    if within(importer, ("cli",)):
        return True
    if within(imported, ("serving",)) and within(importer, ("trace", "parity")):
        return True  # what a target did, and what drafts did, can be asked of an engine
    if within(imported, ("release",)) and within(importer, ("job",)):
        return True  # a job asks it beforehand what it would refuse after hours
    if within(imported, tuple(NARROW)):
        return within(importer, ("checked", "opening", "pipeline", "compare"))
    if mine is None or theirs is None or theirs > mine:
        return False
    return theirs < mine or importer.split(".")[0] == imported.split(".")[0] or mine == 0


def test_every_module_has_a_layer() -> None:
    homeless = [
        name_of(path)
        for path in modules()
        if layer(name_of(path)) is None
        and not within(name_of(path), tuple(NARROW))
        and name_of(path) not in ("__init__", "__main__")
    ]
    assert not homeless, f"not in LAYERS or NARROW: {homeless}"


def test_arrows_never_turn_round() -> None:
    wrong = [str(found) for found in ALL_IMPORTS if (other := ours(found)) and not allowed(found.importer, other)]
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_the_imports_there_are() -> None:
    """A walk that found nothing would allow everything."""
    assert any(found.importer == "cli.exit_codes" and found.imported == "quark_eagle.errors" for found in ALL_IMPORTS)
    assert any(found.imported == "torch" and found.at_module_level for found in ALL_IMPORTS)
    assert any(found.imported == "torch" and not found.at_module_level for found in ALL_IMPORTS)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("errors", "documents"),
        ("checkpoint.reader", "fp8"),
        ("fp8", "model.linear"),
        ("model.linear", "trace.prompts"),
        ("quantize.plan", "parity.replay"),
        ("parity.replay", "quantize.plan"),
        ("parity.replay", "pipeline"),
        ("deploy.verify", "checkpoint.layout"),
        ("deploy.verify", "checkpoint.writer"),
        ("deploy.verify", "quantize.plan"),
        ("deploy.verify", "fp8"),
        ("quantize.plan", "deploy.verify"),
        ("serving.client", "parity.acceptance"),
        ("serving.server", "documents"),
        ("pipeline", "cli.render"),
        ("compare.run", "cli.render"),
        ("quantize.stage", "compare.run"),
        ("reporting.markdown", "parity.verdict"),
        ("release.evidence", "parity.replay"),
        ("release.model_card", "quantize.plan"),
        ("release.model_card_serving", "serving.server"),
        ("reporting.wording", "cli.render"),
        ("parity.verdict", "reporting.wording"),
        ("trace.target_trace", "nowhere"),
    ],
)
def test_the_rule_forbids_what_it_should(importer: str, imported: str) -> None:
    assert not allowed(importer, imported)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("checkpoint.layout", "checkpoint.reader"),
        ("quantize.plan", "checkpoint.layout"),
        ("parity.replay", "model.eagle3"),
        ("deploy.verify", "checkpoint.reader"),
        ("pipeline", "deploy.verify"),
        ("compare.measure", "deploy.verify"),
        ("cli.verify", "deploy.verify"),
        ("reporting.markdown", "documents.verdict"),
        ("release.binding", "parity.gate"),
        ("release.model_card_serving", "serving.recipes"),
        ("release.binding", "deploy.verify"),
        ("cli.verdict_output", "reporting.markdown"),
    ],
)
def test_the_rule_allows_what_it_should(importer: str, imported: str) -> None:
    assert allowed(importer, imported)


@pytest.mark.parametrize("outsider", sorted(ONLY_IN))
def test_one_home_for(outsider: str) -> None:
    wrong = [
        str(found)
        for found in ALL_IMPORTS
        if found.imported.split(".")[0] == outsider and not within(found.importer, ONLY_IN[outsider])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("heavy", sorted(NEVER_AT_MODULE_LEVEL))
def test_imported_inside_functions_only(heavy: str) -> None:
    wrong = [
        str(found)
        for found in ALL_IMPORTS
        if found.imported.split(".")[0] == heavy
        and found.at_module_level
        and not found.for_types_only
        and within(found.importer, NEVER_AT_MODULE_LEVEL[heavy])
        and not within(found.importer, NEVER_IMPORTED)
    ]
    wrong += [str(found) for found in ALL_IMPORTS if within(ours(found) or "", NEVER_IMPORTED)]
    assert not wrong, "\n".join(wrong)


def test_the_numerical_core_imports_numbers_only() -> None:
    """It is what a reviewer checks by hand: torch, numpy, scipy, errors, and each other."""
    import sys

    wrong = [
        str(found)
        for found in ALL_IMPORTS
        if within(found.importer, NUMERICAL_CORE)
        and (head := found.imported.split(".")[0]) not in CORE_MAY_IMPORT
        and head not in sys.stdlib_module_names
    ]
    assert not wrong, "\n".join(wrong)


def test_no_drawer_without_a_name() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [name_of(path) for path in modules() if path.stem in drawers]
