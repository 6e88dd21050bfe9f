# Every target sets itself up: a virtual environment in $(VENV), made anew only when what is installed changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint format check

help:
	@echo "make demo    animate a built-in portrait with the built-in driving clip -> demo.mp4"
	@echo "make test    run the tests"
	@echo "make lint    check style and types"
	@echo "make format  bring the code into shape"
	@echo "make check   lint and test"

demo: $(STAMP)
	$(BIN)/personalive animate clara builtin --side-by-side -o demo.mp4

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "PersonaLive needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
