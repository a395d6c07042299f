# Two commands do everything on a fresh machine (Linux, Python >= 3.11, make, git):
#   make demo    set up, then train SmolLM2-135M with ARPO on deep search and open the report
#   make test    set up, then run the tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
# The real vLLM wants an environment of its own: it pins torch and transformers more tightly than we do.
VLLM_VENV := .venv-vllm
# The environments alone, as `pip install arpo` gives them: no torch, none of the extras.
LIGHT_VENV := .venv-light

.PHONY: help setup model demo test test-fast setup-vllm test-vllm setup-light test-light lint types clean

help:
	@echo "make demo       train a real model on deep search (6 to 12 minutes on two cores), report in $(RUN)/report.html"
	@echo "make test       ruff, mypy and every test that this machine can run"
	@echo "make test-fast  the quick tests only"
	@echo "make test-light the environments and the sandbox without torch or any extra, in $(LIGHT_VENV)"
	@echo "make test-vllm  set up vLLM's CPU build in $(VLLM_VENV) (once; 3.5 GB), then the tests of its engines"

$(VENV)/.done: pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (once; a few minutes) =="
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %s" % sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	# torch first and pinned: a range may resolve to gigabytes of another build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tasks,train,lora,docker,web,openai,suites,trl,boards,bench,dev]'
	@touch $@

setup: $(VENV)/.done

model: setup
	@$(BIN)/python -m arpo_algo.models

demo: model
	$(BIN)/arpo demo --out $(RUN)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test-fast: setup
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not model and not docker"

test: lint types model
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not docker"
	$(BIN)/python -m pytest -q -m "slow or docker"

$(VLLM_VENV)/.done: pyproject.toml constraints.txt scripts/setup_vllm.py
	@echo "== setting up $(VLLM_VENV): the real vLLM, CPU build (once; a few minutes, 3.5 GB) =="
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python scripts/setup_vllm.py
	@touch $@

setup-vllm: $(VLLM_VENV)/.done

test-vllm: setup-vllm
	@$(VLLM_VENV)/bin/python -m arpo_algo.models
	$(VLLM_VENV)/bin/python -m pytest -q tests/vllm

$(LIGHT_VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LIGHT_VENV)
	$(LIGHT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

setup-light: $(LIGHT_VENV)/.done

test-light: setup-light
	$(LIGHT_VENV)/bin/python -m pytest -q -n 2 -m "not slow and not model and not docker" tests/env tests/sandbox

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LIGHT_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
