# `make demo` and `make test` are the two commands of the README; both begin with `make setup`.
SHELL := /bin/bash
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q

.PHONY: help setup bundle demo demo-clean test lint types imports unit kernel compat collection fleet test-vm suites-vm suites suites-attacks suites-dockerpy suites-runc suites-registry suites-fuzz suites-fuzz-images suites-chaos bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what everything else needs: Debian packages, .venv
	@tools/setup.sh

bundle: setup ## one installable archive of the engine in build/
	@$(BIN)/python engine/bundle.py

demo: setup ## build an app, create two hosts, deploy it, update it
	@$(BIN)/python playbooks/examples/hello/demo.py

demo-clean: ## remove everything that `make demo` made
	@if [ -x $(BIN)/python ]; then $(BIN)/python playbooks/examples/hello/demo.py --clean; fi

test: setup ## every ring of tests, from lint to the virtual machine
	@tools/run-tests.sh

lint: setup ## style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup ## pyright, strict
	$(BIN)/pyright

imports: setup ## imports go one way
	$(BIN)/lint-imports

unit: setup ## no root, under a minute
	$(PYTEST) tests/engine/unit tests/machine tests/unit

kernel: setup ## the engine against this kernel, as root
	$(PYTEST) tests/engine/kernel

compat: setup ## stock docker CLI and docker-py against our daemon
	$(PYTEST) tests/engine/compat

collection: setup ## modules and roles against our daemon
	$(PYTEST) tests/integration

fleet: setup ## the demo as a test
	$(PYTEST) tests/fleet

test-vm: setup ## the engine in a QEMU machine with systemd and cgroup v2
	$(PYTEST) tests/vm

suites-vm: setup ## the whole kernel ring in that machine, with both cgroup drivers
	LONGSHORE_VM_RING=full $(PYTEST) -s tests/vm/test_ring.py

suites: suites-attacks suites-dockerpy suites-runc ## other people's test suites against our engine; long, so not a part of `make test`

suites-dockerpy: setup ## docker-py's own integration suite (FILES=… for some of it)
	$(BIN)/python -m tests.suites.dockerpy $(FILES)

suites-attacks: setup ## races between copying and renaming 10,000 times; the attacks without each defence
	LONGSHORE_ATTACK_COPIES=10000 $(PYTEST) -s --timeout 1800 tests/engine/kernel/test_attack_08_copy_races.py
	$(BIN)/python -m tests.engine.attack_defences

suites-runc: setup ## runc's own suite with Debian's runc and with longshore-oci, compared by test name (FILES=…)
	@$(BIN)/python -m tests.suites.runc $(FILES)

suites-registry: setup ## the distribution specification point by point, our registry beside Debian's; writes the page
	@$(BIN)/python -m tests.suites.registry

suites-fuzz: setup ## 20,000 requests made of the API's description; the report is in build/fuzz-report.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r tests/suites/fuzz/requirements.txt
	$(BIN)/python -m tests.suites.fuzz.campaign

suites-fuzz-images: setup ## layers, references, registries and our registry fuzzed, ten minutes each (KIND=… for some)
	$(BIN)/python -m tests.suites.fuzz_images $(KIND)

suites-chaos: setup ## 200 pulls, builds, deletes and prunes with kill -9 at random moments; then the doctor
	LONGSHORE_CRASH_EVERY=1 $(PYTEST) tests/engine/kernel/test_crash_points.py
	$(BIN)/python -m tests.suites.chaos

bench: setup ## side by side with Debian's docker.io, printed as ratios
	@$(BIN)/python -m tests.bench

clean: demo-clean ## remove what was built here
	rm -rf build
