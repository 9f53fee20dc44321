# `make demo` and `make test` set up .venv by themselves; the rest of the commands use it.
VENV := .venv/bin
DEMO := .venv/.demo
TESTS := .venv/.tests
SOURCES := pyproject.toml setup.py $(wildcard csrc/* csrc/*/* csrc/cuda/*/*)
DEMO_OUT ?= demo-out
TEST_OPTIONS ?= -n 2 --dist loadfile

.PHONY: help demo test test-slow test-all lint format bench gpu-check sanitizer gpu-device docs wheel clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## ?/\1\t/' | expand -t 12

demo: $(DEMO)  ## the whole job on a generated video, in minutes
	rm -rf $(DEMO_OUT)
	$(VENV)/laparoflow demo --out $(DEMO_OUT)

test: $(TESTS)  ## the quick tests, some ten minutes
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -m "not slow" $(TEST_OPTIONS)

test-slow: $(TESTS)  ## the tests that are marked slow: wheels, compilers, interpreters, sanitizers, a browser
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -m slow $(TEST_OPTIONS)

test-all: test test-slow  ## both

lint: $(TESTS)  ## ruff, mypy, clang-format
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*/* tests/host_cuda/*.cpp tests/host_cuda/*.h

format: $(TESTS)  ## rewrite the sources in the project's style
	$(VENV)/ruff check --fix-only .
	$(VENV)/clang-format -i csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*/* tests/host_cuda/*.cpp tests/host_cuda/*.h

bench: $(TESTS)  ## every backend and peer on this machine: table and JSON
	$(VENV)/python -m pip install -q pykeops psutil
	$(VENV)/python -m benchmarks && $(VENV)/python -m scripts.readme_tables

# A stage that passed leaves a file and its log in $(GPU), named after the sources, and is not run again; `make gpu-check -k`
# goes on after a stage that fails.
GPU := build/gpu-check/$(shell git rev-parse --short HEAD 2>/dev/null)-$(shell git diff HEAD -- . ':!benchmarks/results' \
	':!docs' ':!*.md' 2>/dev/null | cksum | cut -d' ' -f1)
GPU_PYTHON := $(if $(wildcard $(VENV)/python),$(VENV)/python,python3)
GPU_STAGES := $(addprefix $(GPU)/,build native triton sm80 memcheck racecheck bench)
GPU_TESTS = $(GPU_PYTHON) -m pytest -q -m gpu
SANITIZER = LAPAROFLOW_TEST_DRAWS=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 PATH="$$PATH:$${CUDA_HOME:-/usr/local/cuda}/bin" \
	compute-sanitizer --error-exitcode 9 --tool $(@F) $(GPU_TESTS) tests/kernels/test_numerics.py \
	-k "native and (every_option_float32 or half_precision or widths)"

gpu-check: $(GPU_STAGES)  ## on a machine with a GPU: build, tests, sanitizer, benchmark; what is done is not repeated

sanitizer: $(GPU)/memcheck $(GPU)/racecheck  ## of gpu-check: compute-sanitizer over the CUDA kernels

gpu-device:
	@$(GPU_PYTHON) -c "import sys, torch; torch.cuda.is_available() or sys.exit('torch sees no GPU on this machine')"

$(GPU)/build: RUN = rm -f laparoflow_kernels/_C*.so laparoflow_kernels/_C.json && $(GPU_PYTHON) setup.py build_ext --inplace
$(GPU)/native: RUN = $(GPU_TESTS) -k native tests/kernels
$(GPU)/sm80: RUN = LAPAROFLOW_CUDA_PATH=sm80 $(GPU_TESTS) -k native tests/kernels
$(GPU)/triton: RUN = LAPAROFLOW_TEST_DRAWS=3 $(GPU_TESTS) -p tests.triton.thinned -k triton tests/kernels
$(GPU)/memcheck $(GPU)/racecheck: RUN = $(SANITIZER)
$(GPU)/bench: RUN = $(GPU_PYTHON) -m benchmarks --device cuda --resume && $(GPU_PYTHON) -m scripts.readme_tables
$(filter-out $(GPU)/build $(GPU)/triton,$(GPU_STAGES)): $(GPU)/build
$(GPU_STAGES): | gpu-device
	@mkdir -p $(GPU)
	OMP_NUM_THREADS=1 bash -o pipefail -c '{ $(RUN); } 2>&1 | tee $@.log'
	@touch $@

docs: $(TESTS)  ## the site in build/site; REPOSITORY=owner/name links it to that GitHub repository
	$(VENV)/python -m sphinx -W -q -b html $(if $(REPOSITORY),-D repository=$(REPOSITORY)) docs build/site

wheel: $(TESTS)  ## source distribution and manylinux wheel in wheelhouse/, and the kernel tests on that wheel
	rm -rf wheelhouse
	scripts/build_wheel.sh wheelhouse
	scripts/check_wheel.sh wheelhouse/*.whl -q

clean:  ## remove what was built (not .venv)
	rm -rf build dist wheelhouse *.egg-info laparoflow_kernels/*.so laparoflow_kernels/_C.json $(DEMO_OUT)

$(DEMO): $(SOURCES)
	scripts/setup.sh demo

$(TESTS): $(SOURCES)
	scripts/setup.sh tests
