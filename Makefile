# make demo   the whole chain on embedded images, from nothing
# make test   every check that CI runs; make lint: those that run nothing
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint pytest install clean

# Modules are compiled where they are first imported, and not here: most of them never are.
# The stamp is newer than what it was made from, so an environment is made once and brought up to date when these change.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[digits,onnx,test]'
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/bnas demo

# Side by side: of the checks, mypy alone takes half a minute on one core.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: install
	$(BIN)/pytest --quiet --numprocesses 2

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
