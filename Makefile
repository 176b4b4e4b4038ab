# Two commands need nothing but Python (3.11 or newer), pip and make:
#   make demo    makes the environment and a dataset from examples/prompts.csv in out/demo
#   make test    makes the environment and runs the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SOURCES := $(shell find imagetask flows deployments -name '*.py' -o -name '*.yaml')

.PHONY: demo test browser lint types bench bench-check torture fuzz clean

$(VENV)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imagetask needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[all,dev]'
	touch $@

# Not editable: an editable install is shadowed by a folder named imagetask, such as this clone seen from beside it.
$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	rm -rf build
	touch $@

demo: $(VENV)/.installed
	$(BIN)/imagetask generate examples/prompts.csv --out out/demo --model placeholder

# In two processes, each with servers of its own: much of the time is waiting.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# For the tests that look at Prefect's UI: Chromium of the system's packages where they can be had, else Playwright's.
browser: $(VENV)/.made
	command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| (apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core) \
	|| $(BIN)/playwright install --with-deps chromium

lint: $(VENV)/.made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/cpu_per_image.py
	$(BIN)/python benchmarks/image_columns.py
	$(BIN)/python benchmarks/flat_memory.py
	$(BIN)/python benchmarks/nothing_to_do.py
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/two_workers.py
	$(BIN)/python benchmarks/object_store.py
	$(BIN)/python benchmarks/task_runs.py
	$(BIN)/python benchmarks/rate_limit_storm.py

# Whether a change has made a figure worse: the short forms beside benchmarks/committed.json; FIGURES: those of some.
bench-check: $(VENV)/.installed
	$(BIN)/python benchmarks/check.py $(FIGURES)

# Kills runs at every crash point and 30 times at random, and counts what that cost: docs/guarantees.md
torture: $(VENV)/.installed
	$(BIN)/python benchmarks/torture.py

# Bad input: as the tests do it, with fifty times as many examples, new ones each time.
fuzz: $(VENV)/.installed
	IMAGETASK_FUZZ=50 $(BIN)/python -m pytest tests/test_fuzz_sources.py tests/test_fuzz_rows.py

clean:
	rm -rf $(VENV) out preview build
