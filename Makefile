# `make demo` and `make test` need only Python 3.11 and make: each target installs what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
URL ?=
ARGS ?=
# Most tests wait for a server or a timeout: four workers keep two cores busy.
WORKERS ?= 4

# Machines of containers often set this to 1. uv installs packages without bytecode, so every process that a test starts would
# compile its imports anew: S3 takes 1.6 s of CPU time then, instead of 0.6 s, and the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-fast explore soak torch bench lint types contract check dist docs docs-serve clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# uv, because pip takes two minutes to install the test extra, and uv ten seconds.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv

# One file per extra marks it as installed; a change of the dependencies installs it again.
$(VENV)/demo $(VENV)/test $(VENV)/docs $(VENV)/dist: $(VENV)/%: setup.cfg pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$*]'
	@touch $@

# The extra that the store of URL needs.
EXTRA := $(if $(filter gs://% gcs://%,$(URL)),gcs)$(if $(filter az://% abfs://% abfss://%,$(URL)),azure)

demo: $(VENV)/demo ## Store, open, download and delete a model; URL=s3://bucket/prefix (gs://, az://) uses your own store.
	$(if $(EXTRA),$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(EXTRA)]')
	$(BIN)/python examples/demo.py $(URL)

test: $(VENV)/test ## Run all tests on all servers that this machine can run.
	PYTHON=$(PYTHON) tests/install-servers
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-fast: $(VENV)/test ## Run the fast tests that need no installed server.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow and not hostile and not server' $(ARGS)

explore: $(VENV)/test ## Explore the orders of requests of publishers and collectors for some minutes.
	EXPLORE=20 $(BIN)/python -m pytest -n $(WORKERS) tests/versions/test_exploration.py $(ARGS)

soak: $(VENV)/test ## Kill publishers, collectors and readers of versions at random for five minutes; SOAK=SECONDS for longer.
	PYTHON=$(PYTHON) tests/install-servers
	SOAK=$(or $(SOAK),300) $(BIN)/python -m pytest tests/providers/test_version_soak.py $(ARGS)

torch: $(VENV)/test ## Install torch (800 MB) for the tests of its DataLoader; CI does.
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.*'

bench: $(VENV)/test ## Compare with other libraries; ARGS='--quick', ARGS='--endpoints gcs azure', ARGS=--help.
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/test ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test ## Check the types of the package, the tests and the examples.
	$(BIN)/mypy

contract: $(VENV)/test ## Check which package imports which (pyproject.toml, importlinter).
	$(BIN)/lint-imports --no-logo

check: lint types contract ## Check style, types and imports.

dist: $(VENV)/dist ## Build the wheel and the sdist, check them, and run the demo from the installed wheel.
	.ci/dist $(BIN)

docs: $(VENV)/docs ## Build the documentation site into site/; a broken link is an error.
	$(BIN)/zensical build --strict --clean

docs-serve: $(VENV)/docs ## Serve the documentation on http://localhost:8000 and rebuild it on each change.
	$(BIN)/zensical serve

clean: ## Remove everything that the other targets made.
	rm -rf $(VENV) .venv-servers .venv-bench build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
