# Every target sets itself up: `make reproduce` on a fresh machine needs Python 3.11 or
# newer, and the network once. PIP_ARGS goes to pip, for example an index of CPU wheels.

PYTHON ?= python3
PIP_ARGS ?=
PY := .venv/bin/python
READY := .venv/.ready
SET ?= mini
DEVICE ?= auto
DTYPE ?= float32
JOBS ?= 0
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export SET BASE INSTRUCT DEVICE DTYPE JOBS SEED CELL_TIMEOUT
ASKED := --set "$$SET" --device "$$DEVICE" --dtype "$$DTYPE" --jobs "$$JOBS" \
	$${BASE:+--base "$$BASE"} $${INSTRUCT:+--instruct "$$INSTRUCT"} \
	$${SEED:+--seed "$$SEED"} \
	$${CELL_TIMEOUT:+--cell-timeout "$$CELL_TIMEOUT"} $(foreach p,$(PARAMS),-p "$(p)") \
	$(foreach n,$(ONLY),--only "$(n)")

.DEFAULT_GOAL := help
.PHONY: help reproduce verdicts check test lint lab site models bench version-matrix
.PHONY: publish clean kill-test twice

help:  ## this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@echo "  settings of reproduce: SET BASE INSTRUCT DTYPE DEVICE SEED JOBS ONLY PARAMS"
	@echo "    and CELL_TIMEOUT, in seconds: 600 for mini, else 3600"

.venv: $(READY)  ## the environment, with exact pins

$(READY): requirements.txt
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "installing the pins of requirements.txt into .venv"
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		-r requirements.txt
	@touch $(READY)

reproduce: $(READY)  ## run the notebooks that are not up to date, print the verdicts
	@$(PY) -m harness.run reproduce $(ASKED)

verdicts: $(READY)  ## print the verdict table of SET
	@$(PY) -m harness.run verdicts --set "$$SET"

check: $(READY)  ## compare the results of SET with the committed ones
	@$(PY) -m harness.run check --set "$$SET"

test: $(READY)  ## unit and property tests, then the committed notebooks; offline
	@$(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadfile tests
	@$(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

kill-test: $(READY)  ## kill -9 reproduce ten times; each next run must be whole (slow)
	@$(PY) -m tests.interrupt kills $(ASKED)

twice: $(READY)  ## reproduce twice: same csv; threads, processor: same verdicts (slow)
	@$(PY) -m tests.interrupt twice $(ASKED)

lint: $(READY)  ## ruff
	@$(PY) -m ruff check .

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab notebooks

site: $(READY)  ## what was found on SET, as pages in site/
	@$(PY) -m harness.publish.site --set "$$SET"

models: $(READY)  ## train the mini models again from scratch, about an hour
	@$(PY) -m models.train && $(PY) -m models.measure

bench: $(READY)  ## time the loop against generate; keep figures/bench/ (BENCH=options)
	@$(OFFLINE) $(PY) -m benchmarks $(BENCH)

version-matrix: $(READY)  ## one script under six releases of transformers
	@$(PY) versions/matrix.py

publish: $(READY)  ## mini's outputs into notebooks/, the generated blocks of README.md
	@$(PY) -m harness.run publish

clean:  ## remove what can be made again; .venv stays
	rm -rf runs site .site.* .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
