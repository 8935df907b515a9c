# `make up` runs the server with a small model on this machine; `make help` lists the rest.
PYTHON ?= python3
# A Python that is named is taken as it is. Otherwise a faster build of it is, where there is one.
AS_IS   = $(if $(filter-out file,$(origin PYTHON)),--as-is)
STATE  := .vestry
TESTS  := .venv
LOCK    = $(TESTS)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
          --python-version 3.11 --custom-compile-command 'make lock'

# What runs here is what the locks name, and nothing else that a user's programs find.
unexport PYTHONPATH PYTHONHOME

# Under `make -j`, too, one step after another: `tests-environment` and `packages` may both call apt-get.
.NOTPARALLEL:

.PHONY: up test check help tests-environment packages docs lock bench audit-demo audit-faults

up: ## set everything up, run the server and an engine, print a key; Ctrl-C stops it all
	@$(PYTHON) deploy/bootstrap.py $(AS_IS) server
	@$(STATE)/server/bin/vestry up

test: tests-environment packages ## set up what the tests need, and run them all
	@$(TESTS)/bin/python tests/run.py

check: tests-environment ## lint, types, formatting of the code; who imports whom
	@$(TESTS)/bin/ruff check .
	@$(TESTS)/bin/ruff format --check .
	@$(TESTS)/bin/mypy
	@PYTHONPATH=server $(TESTS)/bin/lint-imports --no-logo

docs: tests-environment ## write anew what is generated: reference pages, dashboard, the chart's copies
	@$(TESTS)/bin/python deploy/docs.py
	@PYTHONPATH=. $(TESTS)/bin/python -m deploy.grafana.dashboard
	@$(TESTS)/bin/python deploy/sync_chart.py

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1: \2/p' $(MAKEFILE_LIST)

tests-environment: ## make the environment of the tests and checks (.venv)
	@$(PYTHON) deploy/bootstrap.py $(AS_IS) tests

packages: ## install the distribution's packages that the tests use (as root)
	@$(PYTHON) deploy/packages.py

lock: tests-environment ## resolve the lock files anew (needs the package registry)
	$(LOCK) pyproject.toml --output-file server/requirements.lock
	$(LOCK) server/build.in --output-file server/build.lock
	$(LOCK) pyproject.toml tests/requirements.in --constraints server/requirements.lock --output-file tests/requirements.lock
	cd server/vestry/models/locks && for kind in cpu cuda; do \
	  ../../../../$(LOCK) --excludes engine-$$kind.excludes engine-$$kind.in --output-file engine-$$kind.lock || exit 1; done
	cd server/vestry/models/locks && ../../../../$(LOCK) engine-torch.in --constraints engine-cpu.lock --output-file engine-torch.lock
	# `===`: a wheel with a local version (2.13.0+cpu) that lies in a folder for pip must not stand in for this one.
	sed -i 's/^torch==\([0-9]\)/torch===\1/' server/vestry/models/locks/engine-cuda.lock server/vestry/models/locks/engine-torch.lock

bench: tests-environment ## measure the server beside a bare nginx proxy (ARGS='--help' lists the options)
	@PYTHONPATH=tests exec $(TESTS)/bin/python -m bench $(ARGS)

audit-demo: tests-environment ## make calls, verify the log, then tamper with copies of it and see each caught
	@PYTHONPATH=server:tests $(TESTS)/bin/python -m demo

audit-faults: tests-environment packages ## make every system call of the audit log fail and die, in turn (about ten minutes)
	@PYTHONPATH=server:tests $(TESTS)/bin/python -m injection
