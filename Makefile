# Every target that needs the environment makes it first; that takes no time when all is there.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
PYTEST_ARGS ?=
EXTRAS := tests,metr,prae,hgkd,spsa,dsnet,pti,maml

.PHONY: help install demo test lint docs claims bench

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# To stderr: the last line on stdout of `make demo` is its result.
install: ## environment in .venv: torch, hosts, mmplugins, test tools
	@bash tools/install.sh --venv $(VENV) --extras $(EXTRAS) >&2

demo: install ## METR on two halves of a real data set: train, evaluate, draw (6 minutes on 2 cores)
	@$(PYTHON) tools/demo.py

# A process for each core, at most four, of one thread each: threads that share a core wait for each other.
test: install ## the test suite; PYTEST_ARGS='-m "not slow"' for the quick part
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: install ## ruff: rules and format
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

docs: EXTRAS := $(EXTRAS),docs
docs: install ## the site, in work_dirs/docs; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo work_dirs/docs/index.html

# Folders of tools/experiments with such a file; `frame` is what they share.
PLUGINS = $(filter-out frame,$(patsubst tools/experiments/%/$(1).py,%,$(wildcard tools/experiments/*/$(1).py)))

# What fails, as PRAE where the boxes of the detectors are not there, is named at the end; the others run.
EACH = failed=; for plugin in $(call PLUGINS,$(1)); do echo "== $$plugin"; \
	$(PYTHON) tools/$(2).py $$plugin || failed="$$failed $$plugin"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

claims: install ## the experiments behind the READMEs' verdicts (hours; see python tools/claims.py --help)
	@$(call EACH,claims,claims)

bench: install ## speed and memory against a named peer
	@$(call EACH,benchmark,benchmark)
