# `make demo` trains an agent and writes a report; `make test` passes the tests. Both set everything up.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread: the training is bound by small matrix products, which more threads slow down.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint format bench docs setup clean

demo: setup
	$(BIN)/burstenv train --agent demo --out runs/demo
	$(BIN)/burstenv evaluate --agent runs/demo --out reports/demo

test: setup
	$(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/burstenv bench

docs: setup
	$(BIN)/python -m burstenv.envs.document

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar off -q -c constraints.txt torch
	$(BIN)/pip install --progress-bar off -q -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) runs reports build *.egg-info
