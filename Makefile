# Two commands on a fresh machine with Python 3.10 or newer, make and gcc: `make demo` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One thread for each library: tests run side by side.
ENV    := OMP_NUM_THREADS=1

.PHONY: demo test test-slow check bench clean

# The demo needs the base install alone.
$(VENV)/.base: setup.py pyproject.toml $(wildcard runtime/gentl/*.c runtime/gentl/*.h runtime/gentl/*.xml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.base
	$(BIN)/inspectd demo --frames 60

test: $(VENV)/.dev
	$(ENV) $(BIN)/python -m pytest

test-slow: $(VENV)/.dev
	$(ENV) $(BIN)/python -m pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info
