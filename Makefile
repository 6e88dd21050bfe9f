# Every target sets itself up: a virtual environment in $(VENV), made anew only when what is installed changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint format check chromium

help:
	@echo "make demo      animate a built-in portrait with the built-in driving clip -> demo.mp4"
	@echo "make test      run the tests"
	@echo "make lint      check style and types"
	@echo "make format    bring the code into shape"
	@echo "make check     lint and test"
	@echo "make chromium  install the browser that some tests want: as root on Debian"

demo: $(STAMP)
	$(BIN)/personalive animate emil builtin --side-by-side -o demo.mp4

test: $(STAMP) chromium
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

# The tests of the live page want a browser. Where it may not be installed they say so and are skipped.
chromium:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get && timeout 300 sh -c \
		'apt-get update -qq -o Acquire::http::Timeout=10 && apt-get install -y -qq --no-install-recommends chromium'; \
	}; } >/dev/null 2>&1 || echo "no Chromium, and it cannot be installed here: the tests in a browser are skipped"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "PersonaLive needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
