# Works on a fresh machine with Python 3.11 to 3.13, git and make; creates a virtual environment in .venv.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=25
HERE := not gpu and not network
FAST := not slow and $(HERE)

.PHONY: demo test test-slow test-all faults check lint format clean

demo: $(VENV)/installed  ## install, then train on real images (no download needed)
	$(BIN)/imgcls train

test: $(VENV)/installed-dev  ## install, then run the fast tests
	$(PYTEST) -m "$(FAST)"

test-slow: $(VENV)/installed-dev  ## run the tests that `make test` leaves out
	$(PYTEST) -m "slow and $(HERE)"

test-all: test test-slow  ## run all tests that this machine supports

faults: $(VENV)/installed-dev  ## run the fault tests with full counts (several minutes)
	$(BIN)/python -m tests.faults --full --out benchmarks/results/faults.md

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## required for every commit

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "imgcls needs Python 3.11, 3.12 or 3.13"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/installed
