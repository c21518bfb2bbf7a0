# make demo   pre-trains a tiny IPT on the photographs of an installed package
# make test   runs the tests
# make lint   runs the linters, the type checker and the check of the package's layers
# make slow   runs the tests that need an extra or minutes
# make soak   runs the long tests
# make mutate puts single faults into a copy of the code and counts those that tests notice; hours
# make docs   builds the documentation into site/
# make release  builds and checks the distributions and their SBOM in dist/; uploads nothing
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo
WORKERS ?= 2
# Benchmark sets and suites for tests that need them, where they lie beside the clone.
export IPT_TEST_DATA ?= $(wildcard $(abspath ..)/shared/data)

.PHONY: demo test lint soak slow mutate docs release clean

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

$(VENV)/.docs: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[docs]'
	touch $@

# The variable hides an advertisement (docs/decisions/0011-documentation-site.md).
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The SBOM lists what a fresh environment gets that has the wheel and nothing else.
release: $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[release]'
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install -qq dist/*.whl
	cd build/wheel && bin/ipt --version && bin/ipt weights
	$(BIN)/cyclonedx-py environment build/wheel/bin/python --output-reproducible \
		--output-format JSON --output-file build/sbom.cdx.json
	mv build/sbom.cdx.json dist/
	@grep -q '^ADDRESS = ""' ipt_jax/versions.py && \
		echo "ADDRESS in ipt_jax/versions.py is empty: set it before you upload" || true

clean:
	rm -rf $(VENV) build dist site *.egg-info
