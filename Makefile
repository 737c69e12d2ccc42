# Two commands from a fresh clone: `make demo` and `make test`.
# PYTHON chooses the interpreter (3.11 or newer); everything installs into .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The oldest Triton that is served, beside the pinned one, for the targets about kernels.
OLDEST := .triton-3.6.0

# Bytecode is kept: commands and tests start many processes, which would compile the source again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo paper test lint unit docs bits fuzz compile-gate warm-check clean

help:
	@echo "make demo   fetch real proteins, measure the trunk on them, write an HTML report"
	@echo "make paper  draw the paper's figures from recorded runs, into results/paper"
	@echo "make test   lint, type-check and run the test suite"
	@echo "make docs   build the documentation site, into build/docs"
	@echo "make bits   run the tests that compare bits as each processor would"
	@echo "make fuzz   read 20,000 damaged files, into results/recorded/fuzz.json"
	@echo "make compile-gate  compile every kernel with both Tritons, for every architecture"
	@echo "make warm-check    start a step's kernels from a warm cache: nothing may be compiled"
	@echo "make clean  remove the virtual environment and the ignored results"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "foldperf needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,test]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/foldperf fetch
	$(BIN)/foldperf prepare --for demo
	$(BIN)/foldperf run demo; status=$$?; \
	  $(BIN)/foldperf report --retrace && exit $$status

paper: $(READY)
	$(BIN)/foldperf report --paper

test: lint unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/foldperf fetch --all
	$(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	rm -rf docs/api build/docs
	$(BIN)/python -m sphinx --fail-on-warning --jobs auto --builder html docs build/docs

bits: $(READY)
	$(BIN)/foldperf fetch --all
	$(BIN)/python tests/bits.py -n 2 --dist loadfile

fuzz: $(READY)
	$(BIN)/foldperf fetch --all
	$(BIN)/python tests/refsys/data/fuzz.py --out results/recorded/fuzz.json

$(OLDEST)/.ready: $(READY)
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OLDEST) triton==$(OLDEST:.triton-%=%)
	@touch $@

compile-gate: $(OLDEST)/.ready
	$(BIN)/foldperf compile
	PYTHONPATH=$(OLDEST) $(BIN)/foldperf compile

warm-check: $(OLDEST)/.ready
	PYTHONPATH=$(OLDEST) $(BIN)/python -m bench.compilation.warm_check

clean:
	rm -rf $(VENV) $(OLDEST) docs/api build results/runs results/report results/paper results/asv results/html
