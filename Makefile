# Every target sets itself up: `make reproduce` on a fresh machine needs Python 3.11.5 to
# 3.14, and the network once. PIP_ARGS goes to pip, for example an index of CPU wheels.

PYTHON ?= python3
PIP_ARGS ?=
PY := .venv/bin/python
READY := .venv/.ready
SET ?= mini
DEVICE ?= auto
JOBS ?= 0
LIST ?= sweep.csv
CLUSTER ?= local
PARALLEL ?= 0
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
SETTINGS := SET BASE INSTRUCT DEVICE DTYPE JOBS SEED CELL_TIMEOUT PARAMS ONLY
SETTINGS += LIST CLUSTER PARALLEL SLURM
# as typed, to the shell as data: neither make nor the shell expands what is in them
$(foreach name,$(SETTINGS),$(eval override export $(name) := $$(value $(name))))
ASKED := --set "$$SET" --device "$$DEVICE" $${DTYPE:+--dtype "$$DTYPE"} --jobs "$$JOBS" \
	$${BASE:+--base "$$BASE"} $${INSTRUCT:+--instruct "$$INSTRUCT"} \
	$${SEED:+--seed "$$SEED"} \
	$${CELL_TIMEOUT:+--cell-timeout "$$CELL_TIMEOUT"} \
	$${PARAMS:+--params "$$PARAMS"} $${ONLY:+--only "$$ONLY"}
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help reproduce verdicts check test test-fast test-real kill-test twice lint
.PHONY: sweep format lock lab site models learn bench version-matrix publish clean seeds

help:  ## this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@echo "  settings of reproduce: SET BASE INSTRUCT DTYPE DEVICE SEED JOBS ONLY PARAMS"
	@echo "    and CELL_TIMEOUT, in seconds: 600 for mini, else 3600"

.venv: $(READY)  ## the environment, with exact pins

$(READY): requirements.txt requirements.lock
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing the pins of requirements.txt and requirements.lock into .venv"
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		-r requirements.txt -c requirements.lock
	@touch $(READY)

reproduce: $(READY)  ## run the notebooks that are not up to date, print the verdicts
	@$(PY) -m harness.run reproduce $(ASKED)

sweep: $(READY)  ## reproduce each row of LIST as a job: CLUSTER=local or slurm
	@$(PY) -c 'import submitit' 2> /dev/null || $(PY) -m pip install --quiet \
		--disable-pip-version-check $(PIP_ARGS) submitit==1.5.4
	@$(PY) -m harness.run sweep --cluster "$$CLUSTER" --parallel "$$PARALLEL" \
		--device "$$DEVICE" $${SLURM:+--slurm "$$SLURM"} \
		$${CELL_TIMEOUT:+--cell-timeout "$$CELL_TIMEOUT"} \
		$${PARAMS:+--params "$$PARAMS"} $${ONLY:+--only "$$ONLY"} -- "$$LIST"

verdicts: $(READY)  ## print the verdict table of SET
	@$(PY) -m harness.run verdicts --set "$$SET"

check: $(READY)  ## SET's results against the committed ones; fails if findings differ
	@$(PY) -m harness.run check --set "$$SET"

test: $(READY)  ## unit and property tests, then the committed notebooks; offline
	@$(PYTEST) tests
	@$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

test-fast: $(READY)  ## the library and the verdicts, under a minute; offline
	@$(PYTEST) -k "not reproduce and not compiled" \
		tests/helpers tests/harness/test_claims.py tests/harness/test_summaries.py

test-real: $(READY)  ## identities and a first experiment on SmolLM2; network once
	@$(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs tests/real_weights.py

kill-test: $(READY)  ## kill -9 reproduce ten times; each next run must be whole (slow)
	@$(PY) -m tests.interrupt kills $(ASKED)

twice: $(READY)  ## reproduce twice: same csv; threads, processor: same verdicts (slow)
	@$(PY) -m tests.interrupt twice $(ASKED)

lint: $(READY)  ## style, format, the arrows between the rooms, types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/lint-imports --no-cache
	@$(PY) -m mypy

format: $(READY)  ## write the code as `make lint` wants it
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

lock: $(READY)  ## requirements.lock from what is installed here
	@{ grep '^#' requirements.lock; $(PY) -m pip --disable-pip-version-check freeze \
		--all --exclude pip --exclude concept-tokens | sed 's/+[a-z0-9]*$$//'; } \
		> requirements.lock.new && mv requirements.lock.new requirements.lock

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab notebooks

site: $(READY)  ## what was found on SET, as pages in site/
	@$(PY) -m harness.publish.site --set "$$SET"

models: $(READY)  ## train the mini models again from scratch, about an hour
	@$(PY) -m models.train && $(PY) -m models.measure

learn: $(READY)  ## train notebook 06's readers, thinkers and searchers again, 47 CPU minutes
	@$(OFFLINE) $(PY) -m experiments.trained_reading

seeds: $(READY)  ## mini with two more training seeds: train, run, keep verdicts (hours)
	@for seed in 1 2; do \
		$(PY) -m models.train mini-gpt2 --seed $$seed --steps 2750 && \
		$(PY) -m models.train mini-qwen2 --seed $$seed --steps 3000 && \
		$(OFFLINE) $(PY) -m harness.run reproduce --set mini-seed$$seed \
			--base models/_work/seed$$seed/mini-gpt2 \
			--instruct models/_work/seed$$seed/mini-qwen2 \
			--only 01 --only 02 --only 03 --only 04 || exit; \
	done; $(PY) -m models.measure

bench: $(READY)  ## time the loop against generate; keep figures/bench/ (BENCH=options)
	@$(OFFLINE) $(PY) -m benchmarks $(BENCH)

arch: $(READY)  ## every causal class of transformers, tried with the loop; offline
	@$(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m versions.architectures

version-matrix: $(READY)  ## one script under six releases of transformers
	@$(PY) versions/matrix.py

publish: $(READY)  ## mini's outputs into notebooks/; the generated blocks of README, docs
	@$(PY) -m harness.run publish

clean:  ## remove what can be made again; .venv stays
	rm -rf runs site .site.* .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	rm -rf .hypothesis .benchmarks build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
