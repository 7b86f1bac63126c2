# Batchwright: `make help` lists the commands. Everything runs from .venv/bin.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
NO_PYTHON := $(PYTHON) 3.11 or newer with venv is missing: apt-get install python3 python3-venv (Debian, Ubuntu), brew install python
LOCK = uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
       --no-emit-index-url --no-header --no-annotate

# Makes the environment that the target is in, from the lock that it needs first.
define FILL
@test -x $(@D)/bin/python || $(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
  { echo "$(NO_PYTHON)" >&2; exit 1; }
@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
@$(@D)/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --require-hashes -r $<
@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --no-deps -e .
@touch $@
endef

.DEFAULT_GOAL := help
# `make try` needs a fifth of what the tests need; an environment that is there already serves it too.
TRY := $(if $(wildcard $(VENV)/.installed),$(VENV),build/try/venv)

.PHONY: help try install lock check format test soak audit bench demo demo-down docs generate page release clean

help: ## this list [at once]
	@echo "In brackets: how long it takes on two cores, and the first time, when it also fills caches."
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*) (\[.*\])$$/\1\t\3\t\2/' | expand -t 12,46

try: $(TRY)/.installed ## two minutes to a first result: the OCR example on this machine, without a cluster [30 s; 2 min the first time]
	@$(TRY)/bin/python -m e2e.tryout

build/try/venv/.installed: locks/ocr.txt pyproject.toml
	@echo "== $(@D): installing what the example needs (1 min; nothing outside this folder)"
	$(FILL)

install: $(VENV)/.installed ## make .venv with all extras, from the hash-pinned lock [30 s; 5 min the first time]

$(VENV)/.installed: locks/all.txt pyproject.toml
	@echo "== $(VENV): installing the locked packages (30 s with a warm cache of packages, 5 min without)"
	$(FILL)

lock: install ## resolve the locks anew [2 min]
	$(BIN)/$(LOCK) --group dev --group bench --all-extras -o locks/all.txt
	$(BIN)/$(LOCK) --extra operator --extra otlp -c locks/all.txt -o locks/operator.txt
	$(BIN)/$(LOCK) --extra worker --extra otlp -c locks/all.txt -o locks/worker.txt
	$(BIN)/$(LOCK) --extra serving --extra otlp -c locks/all.txt -o locks/serving.txt
	$(BIN)/$(LOCK) locks/worker-cuda.in --override locks/worker-cuda-overrides.in --extra worker --extra torch --extra otlp -c locks/all.txt -o locks/worker-cuda.txt
	$(BIN)/$(LOCK) --extra worker --extra ocr -c locks/all.txt -o locks/ocr.txt
	$(BIN)/$(subst pyproject.toml,,$(LOCK)) --group build -o locks/build.txt
	for peer in locks/peers-*.in; do $(BIN)/$(subst pyproject.toml,,$(LOCK)) $$(sed -n 's/^# \(no-deps\).*/--\1/p' $$peer) $$peer -o $${peer%.in}.txt; done

check: install ## lint, types, import contracts, generated files, unit and property tests: the fast part [1.5 min]
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not apiserver and not cluster and not demo and not soak and not slow"

format: install ## format and fix what can be fixed [2 s]
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## everything CI runs: checks, unit, property, contract, real API server, end to end on the embedded cluster [18 min; 35 min the first time]
	@$(BIN)/python -m e2e.outlook test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m e2e.cluster build
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20 -m "not soak and not cluster and not timed" tests
	$(BIN)/pytest --durations 5 -m "(cluster or timed) and not soak" tests

soak: install ## what takes long: minutes of silence, kill matrices, free searches by hypothesis [1 h]
	BATCHWRIGHT_HYPOTHESIS=search $(BIN)/pytest -m "hypothesis and not apiserver and not cluster" --timeout 3600 tests
	$(BIN)/pytest -m soak --timeout 3600 tests

audit: install ## known vulnerabilities of what is locked (where the service can be reached), wheels for both machines, bandit's findings, pip check [1.5 min]
	$(BIN)/python -m e2e.audit

demo: install ## the main job on a real cluster (kind where Docker answers, else embedded; CLUSTER=current IMAGE=... for yours) [3.5 min; 14 min the first time]
	$(BIN)/python -m e2e.demo up

demo-down: install ## remove the demo and its cluster [5 s]
	$(BIN)/python -m e2e.demo down

bench: install ## side-by-side performance tables, on a quiet machine (BENCH="--quick": fewer seconds) [45 min]
	$(BIN)/python -m e2e.bench serving $(BENCH)
	$(BIN)/python -m e2e.bench noop
	$(BIN)/python -m e2e.bench.networks
	$(BIN)/python -m e2e.bench.networks.static
	$(BIN)/python -m e2e.bench ocr

docs: install ## the pages as a site in build/site, with references made from CRDs and settings, every link checked [5 s; 1 min the first time]
	$(BIN)/python -m e2e.site

generate: install ## regenerate CRDs, the Helm chart and protocol stubs [10 s]
	$(BIN)/python -m batchwright_operator.crds.generate --write
	$(BIN)/python -m e2e.release.chart --write
	$(BIN)/python -m e2e.release.boards --write
	$(BIN)/python -m batchwright_worker.oip.generate

page: install ## bundle the dashboard's page anew from worker/page (needs node and npm) [5 s]
	$(BIN)/python -m e2e.page

release: install ## the files of a release in dist/: wheel, chart, install.yaml, plugin, SBOMs, checksums (REGISTRY=..: where images are; PROJECT=https://..: where the project is) [1 min]
	$(BIN)/python -m e2e.release dist $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PROJECT),--project $(PROJECT))

clean: ## remove what builds left in this folder (the cache of binaries and images stays) [at once]
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache
