# `make up` runs a hub, `make test` checks everything; `make help` lists the rest.

PYTHON ?= python3
ARGS ?=
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

BIN := .venv/bin
# A stamp is newer than what it was made from, so nothing is installed twice.
BASE := .venv/.base
DEV := .venv/.dev
BENCH := .venv-bench/.installed
LOCK := pyproject.toml constraints.txt
CODE := $(wildcard src tests scripts bench examples)
STATIC := check-ruff check-format check-mypy check-basedpyright check-imports

.PHONY: help up test wheel-venv bench soak lint format wheel lock clean test-tools $(STATIC)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(BASE) ## run a hub in the foreground; ARGS="--port 8000" goes to `covey serve`
	@exec $(BIN)/covey serve $(ARGS)

test: $(DEV) test-tools ## lint, check types and imports, build the wheel and run all tests against it
	@$(MAKE) -j2 --keep-going --output-sync=target $(STATIC) wheel-venv
	.venv-wheel/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

soak: $(DEV) ## run what takes minutes: tests marked `soak`, then the fuzzers
	@scripts/soak.sh $(BIN)/python $(ARGS)

bench: $(BENCH) ## measure covey beside its peers and write bench/results.md
	.venv-bench/bin/python bench/run.py $(ARGS)

lint: $(DEV) ## the static checks alone
	@$(MAKE) -j2 --keep-going --output-sync=target $(STATIC)

format: $(DEV) ## format the code and apply ruff's safe fixes
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

wheel: $(DEV) ## build dist/covey-*.whl
	@rm -rf dist
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

lock: $(DEV) ## resolve every dependency anew and write constraints.txt
	@scripts/lock.sh $(BIN)/python constraints.txt

clean: ## remove what the other targets made
	rm -rf .venv .venv-wheel .venv-bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +

check-ruff:
	$(BIN)/ruff check $(CODE)

check-format:
	$(BIN)/ruff format --check $(CODE)

check-mypy:
	$(BIN)/mypy

check-basedpyright:
	$(BIN)/basedpyright

check-imports:
	@$(BIN)/lint-imports --no-cache --no-logo

test-tools:
	@scripts/test_tools.sh

# What users install is what the tests test: an environment with the wheel in it and no way to see src/.
wheel-venv: wheel
	@scripts/wheel_venv.sh "$(PYTHON)" .venv-wheel dist/covey-*.whl .venv

$(BASE): $(LOCK)
	@scripts/install.sh "$(PYTHON)" .venv -c constraints.txt -e .
	@touch $@

$(DEV): $(LOCK)
	@scripts/install.sh "$(PYTHON)" .venv -c constraints.txt -e '.[dev]'
	@touch $@ $(BASE)

$(BENCH): $(LOCK) bench/requirements.txt
	@scripts/install.sh "$(PYTHON)" .venv-bench -c constraints.txt -e .
	@scripts/install.sh "$(PYTHON)" .venv-bench -r bench/requirements.txt
	@touch $@
