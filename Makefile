# Two commands need nothing but Python (3.11 or newer), pip and make:
#   make demo    makes the environment and a dataset from examples/prompts.csv in out/demo
#   make test    makes the environment and runs the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types bench clean

$(VENV)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imagetask needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]' mypy pytest ruff hypothesis
	touch $@

demo: $(VENV)/.made
	$(BIN)/imagetask generate examples/prompts.csv --out out/demo --model placeholder

test: $(VENV)/.made
	$(BIN)/python -m pytest

lint: $(VENV)/.made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.made
	$(BIN)/mypy

bench: $(VENV)/.made
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf $(VENV) out preview build
