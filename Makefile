# `make demo` and `make test` set up .venv by themselves; the rest of the commands use it.
VENV := .venv/bin
STAMP := .venv/.installed
SOURCES := pyproject.toml setup.py $(wildcard csrc/* csrc/*/* csrc/cuda/*/*)
DEMO_OUT ?= demo-out
TEST_OPTIONS ?= -n 2 --dist loadfile

.PHONY: help demo test lint format bench gpu-check wheel clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## ?/\1\t/' | expand -t 12

demo: $(STAMP)  ## the whole job on a generated video, in minutes
	rm -rf $(DEMO_OUT)
	$(VENV)/laparoflow demo --out $(DEMO_OUT)

test: $(STAMP)  ## all tests
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest $(TEST_OPTIONS)

lint: $(STAMP)  ## ruff, mypy, clang-format
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*/* tests/host_cuda/*.cpp tests/host_cuda/*.h

format: $(STAMP)  ## rewrite the sources in the project's style
	$(VENV)/ruff check --fix-only .
	$(VENV)/clang-format -i csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*/* tests/host_cuda/*.cpp tests/host_cuda/*.h

bench: $(STAMP)  ## every backend and peer on this machine: table, plot, JSON
	$(VENV)/python -m pip install -q pykeops psutil pytest-benchmark
	$(VENV)/python -m benchmarks && $(VENV)/python -m benchmarks.readme

gpu-check:  ## on a machine with a GPU: build, tests, sanitizer, tuning, benchmark; one results file
	$(if $(wildcard $(VENV)/python),$(VENV)/python,python3) -m benchmarks.gpu_check

wheel: $(STAMP)  ## source distribution and manylinux wheel in wheelhouse/, and the kernel tests on that wheel
	rm -rf wheelhouse
	scripts/build_wheel.sh wheelhouse
	scripts/check_wheel.sh wheelhouse/*.whl -q

clean:  ## remove what was built (not .venv)
	rm -rf build dist wheelhouse *.egg-info laparoflow_kernels/*.so laparoflow_kernels/_C.json $(DEMO_OUT)

$(STAMP): $(SOURCES)
	scripts/setup.sh $(STAMP)
