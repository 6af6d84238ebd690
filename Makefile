# Every target sets itself up; `setup` runs once, and again only when the pins or the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
ZOO := .venv-zoo
ZOO_STAMP := $(ZOO)/.stamp

.PHONY: setup demo test test-all lint format bench zoo clean

setup: $(STAMP)

# torch goes first and alone, so that no dependency chooses its build
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kezuri needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/kezuri demo

test: $(STAMP)
	$(BIN)/pytest -q -m 'not slow'

test-all: $(STAMP)
	$(BIN)/pytest -q

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# an hour or so; each prints its figures and keeps them in benchmarks/results
bench: $(STAMP)
	$(BIN)/python benchmarks/round_cost.py
	$(BIN)/python benchmarks/conditions.py
	$(BIN)/python benchmarks/pcas_forms.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/coupling.py
	$(BIN)/python benchmarks/payoff.py

# hours; one line a model, kept in runs/zoo.json, so that a second call goes on where the first one ended
zoo: $(ZOO_STAMP)
	$(ZOO)/bin/python -m tests.zoo.run --list all --json runs/zoo.json
	$(ZOO)/bin/python -m tests.zoo.table runs/zoo.json docs/zoo.md

$(ZOO_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(ZOO)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[timm,torchvision]'
	@touch $(ZOO_STAMP)

clean:
	rm -rf $(VENV) $(ZOO) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
