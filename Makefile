# payfirst. `make help` lists the targets; each sets up what it needs.
VENV := .venv
BIN := $(VENV)/bin
# The Python that a new environment is made of. Unless it is named: what python3 is, or a well faster build of its version.
PYTHON ?=
ARGS ?=
# Of make soak: a seed of an earlier run replays its schedule.
MINUTES ?= 10
SEED ?=
# Tests mostly wait for blocks, processes and time limits: four at once take a third of the time on two cores.
TESTS_AT_ONCE ?= 4
SLOW_TESTS_AT_ONCE ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup demo bench test test-slow test-all soak check wheel contracts lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each stamp is newer than what it was made from, so a set-up that is complete costs nothing.
$(VENV)/.stamp: requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@echo "· Python environment in $(VENV)"
	@test -x $(BIN)/python || $(if $(PYTHON),$(PYTHON) -m venv $(VENV),\
	  { python=$$(python3 tools/fastest_python.py) && echo "  of $$python" && "$$python" -m venv $(VENV); })
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

node_modules/.stamp: package.json package-lock.json $(VENV)/.stamp
	@echo "· anvil, the local chain"
	@$(BIN)/python -m payfirst.local.node ci
	@touch $@

CLIENTS := tests/conformance/npm
$(CLIENTS)/node_modules/.stamp: $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(VENV)/.stamp
	@echo "· the official npm clients, for the tests"
	@$(BIN)/python -m payfirst.local.node ci $(CLIENTS)
	@touch $@

setup: $(VENV)/.stamp node_modules/.stamp ## Set up everything: virtual environment, pinned packages, anvil

demo: setup ## The whole flow on this machine: make demo ARGS="--once --json"
	@$(BIN)/payfirst demo $(ARGS)

bench: setup ## How fast it is on this machine: make bench ARGS="--quick --json"
	@$(BIN)/python -m benchmarks $(ARGS)

check: setup ## Lint, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: setup check ## Every fast test, on a real PostgreSQL and a real chain
	@$(BIN)/pytest -m "not slow" -n $(TESTS_AT_ONCE) --dist loadgroup $(ARGS)

test-slow: setup $(CLIENTS)/node_modules/.stamp ## Only the slow suites: the demo as a whole, official clients
	@$(BIN)/pytest -m slow -n $(SLOW_TESTS_AT_ONCE) $(ARGS)

test-all: test test-slow ## Everything

wheel: $(VENV)/.stamp ## Build the wheel into dist/, without asking anybody for anything
	@$(BIN)/python -m hatchling build -t wheel -d dist

soak: setup ## Every fault at random for a while, nothing lost: make soak MINUTES=10 SEED=7 ARGS=--json
	@PYTHONPATH=tests:tests/integration $(BIN)/python -m faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

contracts: setup ## Rebuild ABI and bytecode from contracts/ with the npm solc
	@$(BIN)/python -m payfirst.local.node run build-contracts

lock: $(VENV)/.stamp ## Pin the requirements again, with hashes
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header requirements/build.in -o requirements/build.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements/runtime.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml --extra demo --group dev -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header requirements/side-by-side.in -o requirements/side-by-side.txt

clean: ## Remove what set-up, tests and the demo made; payfirst-data is yours and stays
	@rm -rf $(VENV) .venv-side-by-side node_modules $(CLIENTS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis payfirst-demo payfirst-bench dist .build
