# `make demo` trains an agent and writes a report; `make test` passes the tests. Both set everything up.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread: the training is bound by small matrix products, which more threads slow down.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The suite, after any change of a scenario: what tuning finds, which episodes are fixed, and the pages made of both.
SCENARIOS := $(filter-out replicas-16 replicas-64,$(basename $(notdir $(wildcard configs/scenarios/*.yaml))))
TUNE = $(BIN)/burstenv tune --workers 1

# The environment of the real vLLM servers that `make real` starts: 2.2 GB, no GPU.
ENGINES ?= .venv-engines

.PHONY: demo test real agree lint types format bench docs docs-version notebooks tuned suite headroom setup clean

demo: setup
	$(BIN)/burstenv train --agent demo --out runs/demo
	$(BIN)/burstenv evaluate --agent runs/demo --out reports/demo

# A file's tests stay in one process: what they share (trained runs, machine code) is made once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The gateway in front of real vLLM servers with simulated GPU time; a few minutes, not part of `make test`.
real: setup $(ENGINES)/.ready
	BURSTENV_VLLM_PYTHON=$(CURDIR)/$(ENGINES)/bin/python $(BIN)/python -m pytest tests/gateway/test_real_engines.py

$(ENGINES)/.ready: engines-requirements.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/pip install --progress-bar off -q -c constraints.txt torch
	$(ENGINES)/bin/pip install --progress-bar off -q -r engines-requirements.txt
	$(ENGINES)/bin/pip install --progress-bar off -q --no-deps vllm==0.33.0 xgrammar apache-tvm-ffi
	@touch $@

# The compiled engine against the reference on 5,000 random examples of each kind, others in every run (half an hour).
agree: setup
	BURSTENV_EXAMPLES=5000 $(BIN)/python -m pytest tests/*/test_*agree*.py

lint: setup types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# agents/ and configs/ install inside the package; laid there by links, they are checked with it.
types: setup
	rm -rf build/typed && mkdir -p build/typed/burstenv
	ln -s $(CURDIR)/burstenv/* $(CURDIR)/agents $(CURDIR)/configs build/typed/burstenv/
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/burstenv bench

# The pages that are made of the code, then the site of all of docs/ in build/site; a broken link is an error.
docs: setup types
	$(BIN)/python -m burstenv.envs.pages
	$(BIN)/python -m burstenv.evaluation.report.scenario_page
	$(BIN)/python -m burstenv.policies.listing > docs/policies.md
	$(BIN)/python -m burstenv.envs.observation.sources > docs/gateway.md
	$(BIN)/pip install --progress-bar off -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

# The site of this version beside those of others, on the branch gh-pages of this clone; `mike serve` shows them all.
docs-version: docs
	$(BIN)/mike deploy --update-aliases $$($(BIN)/python -c "import burstenv; print(burstenv.__version__)") latest
	$(BIN)/mike set-default latest

# The notebooks anew, with the outputs that they show.
notebooks: setup
	$(BIN)/jupyter-execute --inplace notebooks/*.ipynb

tuned: setup
	set -e; for s in $(SCENARIOS); do $(TUNE) --scenario $$s --out configs/tuned/$$s.yaml; done
	$(TUNE) --scenario diurnal --scalers 20 --out configs/tuned/diurnal.yaml
	$(TUNE) --scenario replicas-16 --episodes 9 --out configs/tuned/replicas-16.yaml
	$(TUNE) --scenario replicas-64 --load 1.5 --episodes 4 --out configs/tuned/replicas-64.yaml
	rm -rf configs/tuned/*.trials
	$(BIN)/python -m burstenv.evaluation.episode_lists

suite: setup
	set -e; for s in $(SCENARIOS); do \
	  load=$$(sed -n 's/^load: \([0-9.]*\).*/\1/p' configs/scenarios/$$s.yaml); \
	  $(BIN)/burstenv evaluate --scenario $$s --load $$load --policy ladder --policy suite --out reports/suite/$$s; done
	$(BIN)/burstenv leaderboard $(SCENARIOS:%=reports/suite/%) --out reports/suite/leaderboard.html
	$(BIN)/python -m burstenv.evaluation.report.scenario_page

headroom: setup
	$(BIN)/burstenv scenarios --headroom --without all --out configs/headroom
	$(BIN)/python -m burstenv.evaluation.report.scenario_page

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar off -q -c constraints.txt torch
	$(BIN)/pip install --progress-bar off -q -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) runs reports build *.egg-info
