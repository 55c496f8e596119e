# The two commands to know:  make video  (install and make a video),  make test  (install and pass the tests).
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PROMPT ?= a red circle moves to the right
export PROMPT  # any text, quotes too: the shell reads it from its environment
TORCH ?= torch==2.13.0
EXPERIMENTS ?= fig10a fig10b fig10c fig10d table9 fig9 fig8a fig8b fig8c fig8d table1 gan table2 table3 table4 table7 table8 table14
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A model this small is fastest on one thread per process, and the tests already run in $(WORKERS) processes.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help venv video test check format walk bench bench-real bench-gpu reproduce count clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d is too old: 3.11 or later is needed (make PYTHON=python3.12 ...)" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --quiet --upgrade pip

$(VENV)/core.done: pyproject.toml constraints-cpu.txt | $(BIN)/python
	@echo "installing into $(VENV); the first time this takes a few minutes" >&2
	$(PIP) install --quiet --quiet -c constraints-cpu.txt '$(TORCH)'
	$(PIP) install --quiet --quiet -c constraints-cpu.txt -e .
	@touch $@

$(VENV)/dev.done: $(VENV)/core.done
	$(PIP) install --quiet --quiet -c constraints-cpu.txt -e '.[dev]'
	@touch $@

venv: $(VENV)/dev.done  ## make .venv with everything the tests and checks need

video: $(VENV)/core.done  ## make a video with the shipped model (PROMPT='...')
	$(BIN)/cogvideox generate --model tiny --prompt "$$PROMPT" --out out/video.mp4 --overwrite

test: $(VENV)/dev.done  ## run the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/dev.done  ## format, lint, types, import floors
	$(BIN)/ruff format --check src tests examples benchmarks integrations
	$(BIN)/ruff check src tests examples benchmarks integrations
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house/test_floors.py

format: $(VENV)/dev.done  ## put the code into its format
	$(BIN)/ruff format src tests examples benchmarks integrations
	$(BIN)/ruff check --fix src tests examples benchmarks integrations

walk: $(VENV)/dev.done  ## the whole system in miniature, twice: world, VAE, packed stages, videos, judge
	$(BIN)/python tests/walks/walk.py

bench: $(VENV)/dev.done  ## measure ours beside diffusers and write docs/records/performance.md
	$(BIN)/python benchmarks/run.py

bench-real: $(VENV)/dev.done  ## the same at the widths of the public checkpoints, and estimates of time beside it: thirteen minutes
	$(BIN)/python benchmarks/run.py --size real --repeats 3

bench-gpu: $(VENV)/dev.done  ## on an NVIDIA GPU: the paper's Tables 7 and 8, kernel rates, training; into docs/records/performance.md
	$(BIN)/python benchmarks/gpu.py --seconds 3600 --out out/gpu
	$(BIN)/python benchmarks/gpu.py --from out/gpu/gpu.jsonl

reproduce: $(VENV)/core.done  ## run the paper's ablations again in miniature; writes docs/records/reproduce.md and the ledger
	@for name in $(EXPERIMENTS); do $(ONE_THREAD) $(BIN)/cogvideox reproduce $$name || exit; done

count: $(VENV)/dev.done  ## count FLOPs, bytes and peak memory at real sizes and write docs/records/counts.md
	$(ONE_THREAD) $(BIN)/python benchmarks/count.py

clean:  ## remove caches and videos made here; trained models (runs/) stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis out build dist
