# Two commands need nothing but Python (3.11 or newer), pip and make:
#   make demo    makes the environment and a dataset from examples/prompts.csv in out/demo
#   make test    makes the environment and runs the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SOURCES := $(shell find imagetask flows deployments -name '*.py' -o -name '*.yaml' -o -name '*.html' -o -name '*.css' -o -name '*.js')

.PHONY: demo test browser lint types bench bench-peers bench-million bench-check torture fuzz clean

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

# In two processes, each with servers of its own: much of the time is waiting. As they are named: by their number of
# tests, the few that take minutes would come last, in one process.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

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

BENCHMARKS := throughput cpu_per_image profiled image_columns flat_memory nothing_to_do start_up two_workers object_store hub_push quality report_page task_runs rate_limit_storm

# All but the two below, one after the other, also where one misses a bar: it is named at the end.
bench: $(VENV)/.installed
	@failed=; for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed, or missed a bar:$$failed"; exit 1; }

# Beside distilabel and NeMo DataDesigner, which it installs in environments of their own: 20 minutes
bench-peers: $(VENV)/.installed
	$(BIN)/python benchmarks/against_peers.py

# A run of 1,000,000 rows beside those of 10,000 and 100,000: an hour, and 9 GB of disk
bench-million: $(VENV)/.installed
	$(BIN)/python benchmarks/flat_memory.py --rows 10000 100000 1000000

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
