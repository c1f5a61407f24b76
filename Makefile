# Every target uses the environment that is active, where seqae is installed in it. Else it makes the one it needs in
# .venv when that is missing, and leaves it alone when it is there.
PYTHON ?= python3
ACTIVE := $(filter-out $(CURDIR)/.venv,$(patsubst %/bin/seqae,%,$(firstword $(wildcard $(VIRTUAL_ENV)/bin/seqae $(CONDA_PREFIX)/bin/seqae))))
BIN := $(or $(ACTIVE),.venv)/bin
READY := $(if $(ACTIVE),,.venv/.ready)
JOBS ?=
SEEDS ?= 6
# Half of the time the slow tests wait: for leases, deadlines, processes that start.
SOAKING = $(shell $(PYTHON) -c "import os; print(min(6, max(2, (os.cpu_count() or 1) * 3 // 2)))")
LIMIT ?= 480
SECTIONS ?=

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

env: $(READY)  ## the environment alone, in .venv

reports: $(READY)  ## train five losses in six ways, and three fixes, at quick scale; render every run and the comparison
	@$(BIN)/seqae run params/losses --scale quick $(if $(JOBS),--jobs $(JOBS)); failed=$$?; \
	$(BIN)/seqae compare losses params/losses --scale quick || exit 1; \
	echo "Open reports/index.html"; exit $$failed

families: $(READY)  ## every family at quick scale, each with its reports and comparison
	@$(BIN)/seqae run $(addprefix params/,$(FAMILIES)) --scale quick $(if $(JOBS),--jobs $(JOBS)); failed=$$?; \
	for family in $(FAMILIES); do $(BIN)/seqae compare $$family params/$$family --scale quick || failed=1; done; \
	echo "Open reports/index.html"; exit $$failed

paper-cpu: $(READY)  ## the best recipe on full MNIST, two hours of a core a seed: make paper-cpu SEEDS=6,7,8
	$(BIN)/seqae run params/best/recipe.yaml --scale cpu -p seed=$(SEEDS)

performance: $(READY)  ## time one update of each size beside its peers; leave the machine alone meanwhile
	$(BIN)/seqae run params/performance --scale quick --jobs 1
	$(BIN)/seqae compare performance params/performance --scale quick

lab: $(READY)  ## JupyterLab at the project's root: notebooks/, params/ and reports/ in its file browser
	$(BIN)/jupyter lab

gpu-check: $(READY)  ## is seqae right and how fast is it on this machine's GPU, in 8 minutes: docs/gpu.md
	$(BIN)/python -m seqae.benchmark.gpu_check --limit $(LIMIT) --out gpu-check.json $(SECTIONS)

test: $(READY)  ## the fast tests: what a change can break, in minutes
	$(PYTEST) -m "not soak" --dist worksteal

soak: $(READY)  ## the slow tests: kills, other machines, ssh, queues, JupyterLab, every notebook
	$(PYTEST) -n $(SOAKING) --maxprocesses 6 --durations=60 --durations-min=10 -m soak --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff (notebooks too), types, stripped notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb notebooks/compare/*.ipynb seqae/sweeps/shipped/new/notebooks/*.ipynb

clean:  ## remove the environment and caches; reports/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build seqae.egg-info

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqae needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "The environment is made in .venv, once, which takes minutes."
	rm -rf seqae.egg-info  # one of an earlier version would hide today's entry points
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lab]'
	touch $@

# All that train; what `performance` times has no other work beside it.
FAMILIES := $(notdir $(patsubst %/,%,$(filter-out params/scale/ params/performance/,$(wildcard params/*/))))
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --durations=15
STRIP := --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution"

.PHONY: help env reports families paper-cpu performance lab gpu-check test soak lint clean
.DEFAULT_GOAL := help
