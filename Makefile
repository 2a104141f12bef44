.PHONY: help demo test test-all check format setup setup-dev setup-sdcpp model model-adherence schema docs bench families house mutants clean

PYTHON ?= python3.11
BIN := .venv/bin
# For two processors: a third worker uses them while others wait for Ray or for a server. Files, not tests, are shared
# out: a file's tests often share a cluster or an emulator.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

help:  ## these verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: setup  ## install, then run the main job on the embedded model: pictures, manifest, contact sheet
	$(BIN)/avbatch run specs/demo.yaml

test: setup-dev setup-sdcpp  ## install what the tests need (the first time it builds stable-diffusion.cpp), then run them
	$(BIN)/python -m pytest $(WORKERS)

test-all: setup-dev setup-sdcpp  ## the tests marked slow as well
	$(BIN)/python -m pytest -m "slow or not slow"

check: setup-dev  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev  ## ruff, in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: .venv/.setup
setup-dev: .venv/.setup-dev
setup-sdcpp: .venv/.setup-sdcpp

.venv/.setup: pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e ".[ray,diffusers-core]"
	touch $@

.venv/.setup-dev: .venv/.setup Makefile scripts/install_test_tools.sh
	$(PIP) -e ".[cluster,diffusers-core,openai,s3,gcs,azure,repl,dev]"
	scripts/install_test_tools.sh
	touch $@

.venv/.setup-sdcpp: .venv/.setup-dev scripts/build_sdcpp.sh
	scripts/build_sdcpp.sh --install
	touch $@

model: setup-dev  ## train the embedded model from scratch (hours on a CPU, minutes on a GPU)
	$(BIN)/python -m training.shapes64.train

model-adherence: setup  ## how often the embedded model draws what held-out prompts say
	$(BIN)/python -m training.shapes64.evaluate --model abstractvision_batch/models/shapes64

schema: setup  ## rewrite avbatch.schema.json from the spec's models
	$(BIN)/python -m abstractvision_batch.job.schema

docs: setup  ## rewrite what is generated: docs/cli.md, docs/configuration.md, the README's backends and files
	$(BIN)/python -m abstractvision_batch.cli.document

families: setup-dev  ## run every family of Diffusers that can be tiny and rewrite docs/families.md: some ten minutes
	$(BIN)/python -m tests.support.sweep

bench: setup-dev  ## measure: NAME=plan_million, driver_costs, http_limit, simulate_cluster, soak, cluster_demo, gallery; ARGS="..."
	$(BIN)/python -m benchmarks.$(or $(NAME),plan_million) $(ARGS)

house: setup-dev  ## rooms, files of a knob, files and calls of a run; BEFORE=COMMIT measures that commit as well
	$(BIN)/python scripts/measure_house.py $(if $(BEFORE),--before $(BEFORE))

mutants: setup-dev  ## change 60 small places of the core, one at a time, and list those that no test notices; an hour
	$(BIN)/python scripts/sample_mutants.py

clean:  ## remove what set-up and runs made
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
