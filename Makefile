# Everything that a fresh machine with Python 3.11 and make needs; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help dev check test screenshots chaos chaos-long fuzz bench bench-compare bench-peers migrate lock audit sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements-dev.lock pyproject.toml tests/contract/old/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Postroad needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/old-qstash --require-hashes -r tests/contract/old/requirements.txt
	@touch $@

dev: $(VENV)/.installed ## Run Postroad on this machine, with a PostgreSQL of its own
	@exec $(BIN)/postroad dev

check: $(VENV)/.installed ## Lint, type-check, and hold the architecture to its contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_house.py

test: $(VENV)/.installed ## Run all tests, in two processes
	@$(BIN)/python -m tests.browser.chromium
	$(BIN)/python -m pytest -n 2

screenshots: $(VENV)/.installed ## Make the pictures of README and docs anew
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser/test_pictures.py -k pictures

chaos: $(VENV)/.installed ## Kill, halt and restart everything under load, and account for every message (an hour)
	$(BIN)/python -m tests.faults.chaos all
	$(BIN)/python -m tests.faults.failover --count 20
	$(BIN)/python -m tests.faults.trouble

chaos-long: $(VENV)/.installed ## The same for a night
	$(BIN)/python -m tests.faults.chaos all --long
	$(BIN)/python -m tests.faults.failover --count 100

fuzz: $(VENV)/.installed ## Look for texts that parsers cannot bear, ten minutes for each
	$(BIN)/python -m tests.fuzz --parser all --seconds 600

bench: $(VENV)/.installed ## Measure: throughput, latency, CPU per message and per step
	$(BIN)/python -m bench.run

bench-compare: $(VENV)/.installed ## Put the last two measurements side by side
	$(BIN)/python -m bench.compare

bench-peers: $(VENV)/.installed ## Measure Postroad beside BullMQ, pg-boss, graphile-worker, Procrastinate and PgQueuer
	$(BIN)/python -m bench.peers

migrate: $(VENV)/.installed ## Bring the database of POSTROAD_DATABASE_URL to this version's schema
	$(BIN)/postroad migrate

lock: ## Renew the lock files from pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header -o requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --allow-unsafe --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

audit: $(VENV)/.installed ## Ask an advisory database for every locked package; needs a network, and fails without one
	$(BIN)/python -m security.floors
	$(BIN)/python -m security.audit

sbom: $(VENV)/.installed ## Write the bill of materials of what runs in production to dist/, as CycloneDX
	$(BIN)/python -m security.sbom

clean: ## Remove what was installed and built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .import_linter_cache .hypothesis bench/bin bench/peers/node_modules
