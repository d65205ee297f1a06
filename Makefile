# Everything a developer does, one verb each. `make help` lists them.

PYTHON ?= python3
PORT ?= 8000
MINUTES ?= 10
SEED ?= 1
RUNS ?= 100
POLICY ?= all
FAULTS ?= full
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := synctec merchants inventory channels locations sync tests scripts manage.py

# Behind a company's proxy the certificates of the system are the ones that count.
export UV_NATIVE_TLS = 1
# Tests and commands choose their own settings; a leftover of another project must not.
unexport DJANGO_SETTINGS_MODULE

# Enough for the settings to load where nothing is connected to. Nothing real can be reached with it.
OFFLINE := env DATABASE_URL=postgresql://offline@127.0.0.1:1/offline DATABASE_POOL_SIZE=0 \
	REDIS_URL=redis://127.0.0.1:1/0 SECRET_KEY=only-for-checks-without-any-server-behind-them \
	CREDENTIAL_KEYS=offline:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

.DEFAULT_GOAL := help
.PHONY: help setup run test properties check fix migrations smoke chaos simulate mutants audit bench vendor clean lock

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install the pinned packages (does nothing when that is done)

run: $(STAMP) ## Start everything on this machine: databases, web on PORT (8000), workers, sandbox stores
	@exec $(BIN)/python -m synctec.local run --port $(PORT)

test: $(STAMP) ## Run all tests, against a PostgreSQL and Valkey of their own (ARGS= goes to pytest)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

properties: $(STAMP) ## Run the properties with twenty times as many examples as `make test`: for a night
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n 2 --dist loadgroup -m hypothesis --timeout 7200 $(ARGS)

check: $(STAMP) ## Lint, formatting, types, import contracts, missing migrations
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(OFFLINE) $(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-logo
	$(OFFLINE) $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

fix: $(STAMP) ## Repair what can be repaired by itself
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

migrations: $(STAMP) ## Write the migrations for changed models
	$(OFFLINE) $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations

smoke: $(STAMP) ## Start a throw-away stack, sell one unit, see it reach every other store
	@$(BIN)/python manage.py smoke --json

chaos: $(STAMP) ## Break a throw-away stack for MINUTES (10) by SEED (1), heal it, audit it
	@$(BIN)/python manage.py chaos --minutes $(MINUTES) --seed $(SEED)

simulate: $(STAMP) ## Run the engine in virtual time: RUNS (100) seeds from SEED (1), POLICY (all), FAULTS (full)
	@$(BIN)/python manage.py simulate --seed $(SEED) --runs $(RUNS) --policy $(POLICY) --faults $(FAULTS) $(if $(FRESH),--fresh)

mutants: $(STAMP) ## Plant every known bug in the simulator, one at a time, and say which seed caught it
	@$(BIN)/python manage.py simulate --mutants

audit: $(STAMP) ## Check the invariants of the running stack's data
	@$(BIN)/python manage.py audit --json

bench: $(STAMP) ## Measure WHAT=apply, hold, ingest or reconcile in a throw-away stack (ARGS= goes to the command)
	@$(BIN)/python manage.py bench $(WHAT) $(ARGS)

vendor: $(STAMP) ## Fetch the browser files of static/vendor anew and check their digests (needs npm)
	@$(BIN)/python scripts/vendor.py

clean: ## Remove .venv, caches, and the data of `make run`
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m synctec.local clean; fi
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(STAMP) ## Write constraints.txt anew after a change of the requirements
	$(BIN)/uv pip compile requirements-dev.txt --universal --python-version 3.11 --quiet \
		--custom-compile-command "make lock" --output-file constraints.txt

$(STAMP): requirements.txt requirements-otel.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "SyncTec needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python cannot make virtual environments (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing the pinned packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --requirement requirements-dev.txt \
		|| { echo "uv could not; trying pip"; $(BIN)/python -m pip install --quiet --disable-pip-version-check \
			--constraint constraints.txt --requirement requirements-dev.txt; }
	@touch $@
