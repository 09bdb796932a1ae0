PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
# A process a core, each on one thread unless the environment says otherwise: the small graphs of
# the tests gain nothing from more.
export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal
PACKAGES := graph_init $(notdir $(wildcard frontends/graph_init_*))
# Fails if a public name has a type that a checker would have to guess. It does not follow editable
# installs, so it is told where the packages are.
VERIFYTYPES := PYTHONPATH=.:frontends $(BIN)/basedpyright --pythonpath $(BIN)/python \
	--ignoreexternal --verifytypes

.PHONY: demo test test-long lint audit format docs clean

demo: $(RUN_STAMP)
	$(BIN)/python tools/demo.py

test: $(DEV_STAMP)
	$(PYTEST) -m "not long"

test-long: $(DEV_STAMP)
	$(PYTEST)

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	for package in $(PACKAGES); do $(VERIFYTYPES) $$package || exit 1; done

audit: $(RUN_STAMP)
	$(BIN)/python tools/supply.py --advisories

format: $(DEV_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(RUN_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training]'
	touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training,dev,docs]'
	touch $@

docs: $(DEV_STAMP)
	$(BIN)/python -m mkdocs build --strict --clean

clean:
	rm -rf $(VENV) build dist site *.egg-info
