# `make demo` and `make test` need nothing but Python 3.11 and make: each sets up what it uses.
PYTHON ?= python3
# uv, because pip 23 tries for ten minutes to find the releases of boto3 and s3fs that go together.
VENV := .venv
BIN := $(VENV)/bin
URL ?=
ARGS ?=
# Most tests wait for a server, or for what may not happen: four keep two cores busy.
WORKERS ?= 4

.PHONY: help demo test test-fast torch bench lint types check clean

help: ## Say what there is to make.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[demo]'
	@touch $@

$(VENV)/test: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test]'
	@touch $@ $(VENV)/demo

# What the store of URL needs beside the core.
EXTRA := $(if $(filter gs://% gcs://%,$(URL)),gcs)$(if $(filter az://% abfs://% abfss://%,$(URL)),azure)

demo: $(VENV)/demo ## Store, open, download and delete a model; URL=s3://bucket/prefix (gs://, az://) does it on your own store.
	$(if $(EXTRA),$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(EXTRA)]')
	$(BIN)/python examples/demo.py $(URL)

test: $(VENV)/test ## Run all tests on all servers that this machine can have.
	PYTHON=$(PYTHON) tests/install-servers
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-fast: $(VENV)/test ## Run the fast tests only.
	PYTHON=$(PYTHON) tests/install-servers
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow and not hostile' $(ARGS)

torch: $(VENV)/test ## Add torch (800 MB), which the tests of its DataLoader need; CI does.
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.*'

bench: $(VENV)/test ## Measure us beside our peers; ARGS='--quick', ARGS='--server ceph --jobs upload', ARGS=--help.
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/test ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test ## Check types of the package, the tests and the examples.
	$(BIN)/mypy

check: lint types ## Check style and types.

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .venv-servers .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
