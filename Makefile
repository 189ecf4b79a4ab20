# make demo   install the runtime, score the sample histories with the shipped model
# make test   install everything, run the tests but for the slow ones
# make test JOBS=8  in so many processes; LLMCDSR_MUTATIONS=20000 sets the number of damaged files
# make test-slow    the slow tests, and those with examples that Hypothesis makes, with more; make test-all  both
# make check  linters; make demo-model: make models/demo again
# make test-wheel     the wheel with NumPy alone, and without a compiler
# make test-cluster   the programs of docs/cluster.md on Ray and Spark (Java 17), in an environment of its own
# make test-browser   the page in browser/ in a headless Chromium (needs Node.js 20 and chromium)
# make test-node      the client of docs/format.md in Node.js (needs Node.js 20; onnxruntime-node is 290 MB)
# make generate-local DATASET=.. TITLES=.. ENCODER=.. OUT=..  names from a language model on this machine

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
CLUSTER_VENV ?= .venv-cluster
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# what is installed for development, the runtime is in, too
INSTALLED := $(if $(wildcard $(VENV)/.development),.development,.runtime)
# for the runtime alone the sources are copied: again, when they change
SOURCES := $(shell find llmcdsr_lite tools -name '*.py' -o -name '*.toml' -o -name '*.css')

# bytecode is kept, whatever the environment says: the tests start some hundred processes
PYTEST := PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: demo test test-slow test-all check demo-model test-wheel test-cluster test-browser test-node generate-local clean

demo: $(VENV)/$(INSTALLED)
	@$(BIN)/llmcdsr score models/demo-histories.jsonl --model models/demo -k 3 --titles --output-format csv
	@echo "\nA user of groceries alone, kitchenware wanted: pseudo items stand in for what is missing"
	@$(BIN)/llmcdsr recommend --title "espresso roast" --title "biscotti" --domain kitchenware -k 5 --model models/demo --explain
	@echo "\nA user with history in both"
	@$(BIN)/llmcdsr recommend --title "espresso roast" --title "pour-over kettle" --domain kitchenware -k 5 --model models/demo --explain

test: $(VENV)/.development
	$(PYTEST) -m "not slow" --hypothesis-profile quick

test-slow: $(VENV)/.development
	$(PYTEST) -m "slow or hypothesis"

test-all: test test-slow

check: $(VENV)/.development
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# kernels that all x86-64 processors of today have: the bundle does not depend on the machine's own
demo-model: $(VENV)/.development
	OPENBLAS_CORETYPE=Haswell PYTHONPATH=examples $(BIN)/python -m demo_world models --overwrite

test-wheel: $(VENV)/.development
	LLMCDSR_TEST_WHEEL=1 $(BIN)/python -m pytest tests/test_wheel.py

test-cluster: $(CLUSTER_VENV)/.installed
	$(CLUSTER_VENV)/bin/python -m pytest tests/score/test_cluster.py

test-browser: $(VENV)/.development
	PYTHON=$(abspath $(BIN)/python) browser/run_tests.sh

test-node: $(VENV)/.development
	@command -v npm >/dev/null || { echo "skipped: the client's tests need Node.js 20 or newer with npm"; exit 0; }; \
		cd tests/node_client && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && cd ../.. && \
		OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/test_node_client.py

generate-local: $(VENV)/.development
	benchmarks/local_llm.sh $(DATASET) $(TITLES) $(ENCODER) $(OUT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml $(SOURCES) | $(VENV)/bin/python
	$(PIP) .
	@touch $@

# hnswlib is compiled on installation: where that fails, everything else is installed without it
$(VENV)/.development: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[train,generate,hnsw,dev]' || { echo "hnswlib did not install: going on without approximate search"; \
		$(PIP) -e '.[train,generate,dev]'; }
	@touch $@

$(CLUSTER_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CLUSTER_VENV)
	$(CLUSTER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[ray,spark,dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(CLUSTER_VENV) browser/node_modules browser/dist tests/node_client/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
