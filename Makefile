# `make demo` and `make test` are all a newcomer needs: each sets itself up.
.PHONY: install demo test browser format lint types bench clean
.DEFAULT_GOAL := test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Nothing is fetched but packages: the example pair comes from one.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Installing leaves compiling to the first import. Where that is forbidden to write what it compiled (some machines set
# this), every process would compile torch, transformers and vLLM anew: half a minute before an engine begins to start.
export PYTHONDONTWRITEBYTECODE :=

install: $(INSTALLED)

$(INSTALLED): constraints.txt pyproject.toml tools/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash tools/install.sh
	@touch $@

demo: install
	$(BIN)/python examples/demo.py

# A process for each core, and no more than four: some tests start an engine.
test: browser lint types
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --no-loadscope-reorder $(ARGS)

# For the tests that look at report.html; it is there long before they begin, or they are skipped and say why.
browser:
	@bash tools/browser.sh </dev/null >/dev/null 2>&1 &

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/quantize_speed.py
	$(BIN)/python benchmarks/replay_speed.py --target "$$($(BIN)/python examples/prepare_target.py)"
	$(BIN)/python benchmarks/served_agreement.py --target "$$($(BIN)/python examples/prepare_target.py)"
	$(BIN)/python benchmarks/gate_simulation.py
	$(BIN)/python benchmarks/gate_mutations.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
