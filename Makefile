# What one can do here. Every target makes its own environment.
#   make study                 train, measure and fit the quickstart study; ends with its report
#   make study TORCH=cuda      the same on a GPU machine
PYTHON ?= python3
TORCH ?= cpu
TORCH_VERSION := 2.13.0
# For tests without a GPU; a CUDA torch brings its own.
TRITON_VERSION := 3.7.1
BIN := .venv/bin
STUDY ?= quickstart
# Where PyTorch publishes its CPU builds, for package indexes that have only the CUDA one.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: install study s3-server test test-slow lint format bench clean

install: .venv/installed-$(TORCH)

.venv/installed-$(TORCH): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "the venv module is missing: apt-get install python3-venv"; exit 2; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)
	$(BIN)/pip install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || \
	  $(BIN)/pip install -q "torch==$(TORCH_VERSION)" --index-url $(TORCH_CPU_INDEX)
	$(BIN)/pip install -q "triton==$(TRITON_VERSION); sys_platform == 'linux'"
else
	$(BIN)/pip install -q "torch==$(TORCH_VERSION)"
endif
	$(BIN)/pip install -q -r requirements.txt
	$(BIN)/pip install -q --no-deps -e .
	@touch $@

.venv/installed-test: .venv/installed-$(TORCH) requirements-test.txt
	$(BIN)/pip install -q -r requirements-test.txt
	@touch $@

study: install
	$(BIN)/sparsing run $(STUDY)

# The S3 server that tests of object stores run against; without it they are skipped.
s3-server: .venv-s3/installed

.venv-s3/installed: requirements-s3.txt
	test -x .venv-s3/bin/pip || $(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install -q -r requirements-s3.txt
	@touch $@

test: .venv/installed-test s3-server
	$(BIN)/pytest -m "not slow"

test-slow: .venv/installed-test s3-server
	$(BIN)/pytest -m slow --timeout 3600

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/sparsing bench train
	$(BIN)/sparsing bench metric
	$(BIN)/sparsing bench ffn
	$(BIN)/sparsing bench fit

clean:
	rm -rf .venv .venv-s3 build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
