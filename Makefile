# Every command of the project; `make` alone lists them. The first one sets up `.venv`, later ones find it current.
# All paths are relative, so that the checkout may lie in a folder with spaces in its name.

PY := .venv/bin/python
STAMP := .venv/.ready
SHELL := bash

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all test-pythons test-extension extension house lint lab bench fuzz chaos stress test-ipykernels bench-search bench-peers bench-rivals gpu-check screenshots clean
.PHONY: bench-pair docs views
.DELETE_ON_ERROR:

help:  ## this list
	@printf 'make run                     execute notebooks/quickstart.ipynb and print its result table (results in out/)\n'
	@printf 'make test [PYTEST_ARGS=...]  run the tests that are not slow; PYTEST_ARGS="tests/planner -x" for a part\n'
	@printf 'make test-all                run all tests, those with a browser too (half an hour)\n'
	@printf 'make test-pythons            the quick tests on Python 3.12 and 3.13, where they are found\n'
	@printf 'make test-extension          the unit tests of the JupyterLab extension (says so where there is no Node)\n'
	@printf 'make extension               build the JupyterLab extension anew (needs Node 20 or newer)\n'
	@printf 'make lab [LAB_ARGS=...]      open JupyterLab on the quickstart (as root: LAB_ARGS=--allow-root)\n'
	@printf 'make test-ipykernels         the browser tests of busy cells and of stopping, on ipykernel 6.31, 7.3 and 7.4\n'
	@printf 'make lint                    ruff (check and format) and mypy\n'
	@printf 'make house [HOUSE_ARGS=...]  measure the package itself: files, functions, cycles, journeys\n'
	@printf 'make docs                    build the documentation site into out/docs/html; a warning is an error\n'
	@printf 'make bench [BENCH=name]      run the programs in benchmarks/\n'
	@printf 'make fuzz [FUZZ_ARGS=...]    spoilt files and messages: none may raise what is no EsenError, or take a second\n'
	@printf 'make chaos [CHAOS_ARGS=...]  signals at random instants, full disks, small limits: CHAOS_ARGS="--minutes 5 --seed 1"\n'
	@printf 'make stress [STRESS_ARGS=...] runs with slow and dying members: STRESS_ARGS="--runs 10000 --seed 1"\n'
	@printf 'make bench-pair BASE=REV     what users wait for, here and at a revision, in pairs: what became slower; BENCH_ARGS=--verbs: every verb\n'
	@printf 'make gpu-check               everything claimed about an NVIDIA GPU, as JSON; BENCH_ARGS=--rehearse without one\n'
	@printf 'make bench-search            compare the searchers; BENCH_ARGS=--quick in seconds, --minutes N in parts\n'
	@printf 'make bench-peers             plans against OpenVINO, ONNX Runtime, torch.compile, Ray and others (hours; BENCH_ARGS=--quick)\n'
	@printf 'make bench-rivals            the same ensemble behind ours, Triton, FastAPI, LitServe, Ray Serve (ten minutes; BENCH_ARGS=--quick)\n'
	@printf 'make screenshots             take the README'\''s pictures anew, in a real JupyterLab (needs Chromium)\n'
	@printf 'make views                   a picture of every view into out/views, to be looked at (needs Chromium; VIEWS_ARGS="--only lab")\n'
	@printf 'make setup                   only set up .venv (PYTHON=/path/to/python3.12 chooses the Python)\n'
	@printf 'make clean                   remove .venv, out/, builds and caches\n'

# Made again when what is installed changed, when the Python under it is gone, or when the checkout was moved.
$(STAMP): pyproject.toml constraints.txt tools/setup.sh $(wildcard esen_lab/labextension/package.json)
	@PYTHON="$(PYTHON)" bash tools/setup.sh

ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell bash tools/setup.sh --is-current && echo yes),yes)
.PHONY: $(STAMP)
endif
endif

setup: $(STAMP)  ## only set up .venv

run: $(STAMP)
	@$(PY) notebooks/run_quickstart.py $(RUN_ARGS)

test: $(STAMP)
	@$(PY) tools/run_tests.py $(PYTEST_ARGS)

test-all: $(STAMP)
	@$(PY) tools/run_tests.py --all

test-pythons: $(STAMP)
	@bash tools/test_pythons.sh

test-extension: $(STAMP)
	@$(PY) tools/extension.py test

extension: $(STAMP)
	@$(PY) tools/extension.py build

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

docs: $(STAMP)
	@$(PY) tools/docs.py $(DOCS_ARGS)

house: $(STAMP)
	@$(PY) tools/house.py $(HOUSE_ARGS)

lab: $(STAMP)
	@$(PY) -m jupyterlab notebooks/quickstart.ipynb $(LAB_ARGS)

bench: $(STAMP)
	@set -e; for program in benchmarks/$(or $(BENCH),*).py; do \
		[ -e "$$program" ] || { echo "No such program: $$program"; exit 1; }; \
		echo "== $$program"; $(PY) "$$program"; done

fuzz: $(STAMP)
	@$(PY) tools/fuzz.py $(FUZZ_ARGS)

chaos: $(STAMP)
	@$(PY) tools/chaos.py $(CHAOS_ARGS)

stress: $(STAMP)
	@$(PY) tools/stress_deadlines.py $(STRESS_ARGS)

test-ipykernels: $(STAMP)
	@ESEN_LAB_TEST_IPYKERNELS="6.31.0 7.3.0" $(PY) -m pytest tests/browser -k "busy or interrupt or refresh"

bench-search: $(STAMP)
	@$(PY) benchmarks/bench_search.py $(BENCH_ARGS)

bench-peers: $(STAMP)
	@$(PY) benchmarks/peers/bench_peers.py $(BENCH_ARGS)

bench-rivals: $(STAMP)
	@tools/triton_env.sh
	@tools/rivals_env.sh
	@$(PY) benchmarks/load/bench_rivals.py $(BENCH_ARGS)

bench-pair: $(STAMP)
	@$(PY) tools/bench_pair.py $(or $(BASE),HEAD~1) $(BENCH_ARGS)

gpu-check: $(STAMP)
	@$(PY) benchmarks/gpu/gpu_check.py $(BENCH_ARGS)

screenshots: $(STAMP)
	@$(PY) tools/screenshots.py

views: $(STAMP)
	@$(PY) tools/views.py out/views $(VIEWS_ARGS)

clean:
	rm -rf .venv out build dist *.egg-info extensions/esen-lab/node_modules extensions/esen-lab/lib .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
