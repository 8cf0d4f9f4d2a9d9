# Two commands for a fresh clone: `make demo` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint benchmarks clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/installed-trl: $(VENV)/installed  # what the tests of the TRL subject need; without it they are skipped
	$(BIN)/pip install -q -c constraints.txt -e '.[test,trl]'
	touch $@

demo: $(VENV)/installed  ## the default campaign, two trainings at a time; ends with a candidate that waits
	$(BIN)/evolve run executor.workers=2

test: $(VENV)/installed-trl lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: $(VENV)/installed  ## all benchmarks of reliability and speed, one after the other; writes docs/benchmarks.md
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
