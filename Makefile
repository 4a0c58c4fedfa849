# make quickstart   everything from nothing: environment, pictures, training, report
# make test         the tests          make lint   style and types          make bench [ONLY=name]   speed, to bench.json

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint bench

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch -e '.[dev,photos,cjk,hf,curation,ray]'
	touch $@

quickstart: $(VENV)/.core
	$(BIN)/mindvl recipe configs/quickstart/recipe.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mindvl callbacks

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks $(ONLY)
