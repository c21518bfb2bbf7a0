# make demo   pre-trains a tiny IPT on the photographs of an installed package
# make test   runs the tests
# make lint   runs the linters, the type checker and the check of the package's layers
# make slow   runs the tests that need an extra or minutes
# make soak   runs the long tests
# make mutate puts single faults into a copy of the code and counts those that tests notice; hours
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo
WORKERS ?= 2
# Benchmark sets and suites for tests that need them, where they lie beside the clone.
export IPT_TEST_DATA ?= $(wildcard $(abspath ..)/shared/data)

.PHONY: demo test lint soak slow mutate clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip

$(VENV)/.dev: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[dev,demo]'
	touch $@

demo: $(VENV)/.dev
	$(BIN)/ipt pretrain --config=configs/demo.py --workdir=$(WORKDIR)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck -x launch/*.sh benchmarks/*.sh

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m soak

mutate: $(VENV)/.dev
	$(BIN)/python -m pip install -qq -e '.[mutate]'
	$(BIN)/python benchmarks/mutate.py $(MODULES)

clean:
	rm -rf $(VENV) build dist *.egg-info
