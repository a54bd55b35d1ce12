# The commands of this repository. They install into .venv only. All paths are relative, so the repository folder may
# have any name. Console scripts in .venv/bin contain absolute paths and break under some names, so the targets call
# `.venv/bin/python -m`.

PYTHON ?= python3.11
TORCH_INDEX ?=# package index for torch, such as PyTorch's index of CPU builds; empty: the one that pip is set up for
ARGS ?=# extra overrides for `make run`, extra options for `make test`
WORKERS ?= 2# test processes of `make test`; each takes up to 8 GiB of memory
UV ?= uv
UV_FLAGS ?= --torch-backend=cpu# how `make lock` finds the CPU build of torch

# vLLM's CPU build exists for Linux on aarch64 and on x86_64 with AVX2. Other machines use the local stack: one process.
STACK := $(or $(STACK),$(shell [ "$$(uname -s)" = Linux ] && \
	{ [ "$$(uname -m)" = aarch64 ] || grep -qsw avx2 /proc/cpuinfo; } && echo cpu || echo local))
LOCAL := stack=local
OVERRIDES := experiment=sandbox $(if $(filter local,$(STACK)),$(LOCAL))
# The tiers of the suite are pytest markers; pyproject.toml describes them.
TIERS := not soak$(if $(filter local,$(STACK)), and not ray and not vllm and not deepspeed)
CAREFUL := dno dno_prct# algorithms that end better with the smaller learning rate of `make compare`
BASE ?= main# what `make test-changed` compares with

RUN := .venv/bin/python -m
PYTEST := $(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(RUN) pip install --quiet --no-compile --disable-pip-version-check
INSTALLED := .venv/installed-$(STACK)-$(shell cat requirements/torch.txt requirements/$(STACK).txt | cksum | tr ' ' '-')
LOCK := pip compile --quiet --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --constraint requirements/torch.txt

# If it is set, every process compiles torch, Ray and vLLM to bytecode again. That takes tens of seconds, and a test
# starts dozens of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run world check types unit test test-changed soak drill mutants alarms matrix nodes chaos whole-way preferences repeat compare curves bench docs picture format lock wheel clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

run: world ## run the main job on the sandbox world; ARGS="rounds=2 seed=1" are overrides
	@$(if $(filter local,$(STACK)),echo "vLLM has no CPU build for this machine: running the local stack ($(LOCAL)).",:)
	$(RUN) rlhf_flow run $(OVERRIDES) $(ARGS)

world: $(INSTALLED) ## build the sandbox world, once
	$(RUN) rlhf_flow sandbox

check: $(INSTALLED) ## format, lint, types and unit tests
	$(RUN) ruff format --check --quiet .
	$(RUN) ruff check --quiet .
	.venv/bin/shellcheck --severity=warning .ci/run scripts/launch/*.sh scripts/launch/*.sbatch
	@$(MAKE) --no-print-directory -j 2 types unit

types: $(INSTALLED) ## run mypy
	$(RUN) mypy

unit: $(INSTALLED) ## the tests that start no process, load no model and run no round
	$(RUN) pytest -q -n $(WORKERS) --budget 90 -m "not slow" $(ARGS)

test: $(INSTALLED) ## all tests, including those with vLLM, Ray and DeepSpeed; ARGS="-k drill" goes to pytest
	$(PYTEST) --slowest 20 --budget 1200 -m "$(TIERS)" $(ARGS)

test-changed: $(INSTALLED) ## the tests of `make test` that import a file that differs from main; BASE=v0.1.0
	@tests=$$(.venv/bin/python scripts/proofs/changed_tests.py $(BASE)) && \
		if [ -n "$$tests" ]; then $(PYTEST) -m "$(TIERS)" $(ARGS) $$tests; else echo "No test imports what differs from $(BASE)."; fi

soak: world ## tests that take too long for `make test`: crash drill, chaos, three nodes, every recipe in full
	$(RUN) pytest -m soak --slowest 20 --budget 7200 $(ARGS)

drill: world ## the full crash drill with Ray: kill every process of a run at every stage; about half an hour
	.venv/bin/python scripts/proofs/drill.py --stack ray $(ARGS)

mutants: $(INSTALLED) ## mutate every formula, check that a test fails each time; ARGS="--only objective/xpo"
	.venv/bin/python scripts/proofs/mutants.py $(ARGS)

alarms: $(INSTALLED) ## alarms with a scorer that rewards length and one that does not; ARGS="--seeds 20 21"
	PYTHONPATH=. .venv/bin/python scripts/proofs/alarms.py $(ARGS)

chaos: world ## half an hour of killed, stopped and disconnected processes; ARGS="--minutes 5"
	.venv/bin/python scripts/proofs/chaos.py $(ARGS)

whole-way: world ## sft, train-reward, run, eval and export, and the result in other programs; ARGS="--kill --vllm"
	PYTHONPATH=. .venv/bin/python scripts/proofs/whole_way.py $(ARGS)

preferences: $(INSTALLED) ## train reward models on real preferences, about five minutes on one core; DATA=file.jsonl.gz
	.venv/bin/python scripts/proofs/preferences.py --data "$(DATA)" --folder runs/preferences $(ARGS)

matrix: $(INSTALLED) ## measure which architectures work with which engine, for docs/checkpoints.md; ARGS="mixtral gpt2"
	PYTHONPATH=. .venv/bin/python scripts/proofs/checkpoints.py $(ARGS)

nodes: world ## compare the files of a run on three raylets of this machine and on one node; ARGS="--namespaces"
	.venv/bin/python scripts/proofs/nodes.py $(ARGS)

repeat: world ## the sandbox run for three seeds; ARGS="--stacks ray local" compares the two
	.venv/bin/python scripts/proofs/repeat.py $(ARGS)

compare: world ## compare all recipes at the same number of scorer queries, an hour or two; ARGS="--world cyclic"
	$(RUN) rlhf_flow compare --world sandbox --jobs 2 $(ARGS)

curves: world ## the learning curves of the algorithm pages, about fifty minutes: docs/algorithms/curves.json
	$(RUN) rlhf_flow compare --world sandbox --lrs 3e-4 --seeds 0 --jobs 2 --folder runs/curves evaluate.every=1 \
		--recipes $(filter-out $(CAREFUL),$(basename $(notdir $(wildcard configs/algorithm/*.yaml))))
	$(RUN) rlhf_flow compare --world sandbox --lrs 1e-4 --seeds 0 --jobs 2 --folder runs/curves evaluate.every=1 --recipes $(CAREFUL)
	.venv/bin/python scripts/proofs/curves.py runs/curves docs/algorithms/curves.json

bench: $(INSTALLED) ## all benchmarks; TRL goes into build/peers; ARGS="--parts rounds --workloads W6 --model M --prompts P"
	PYTHONPATH=scripts/bench .venv/bin/python scripts/bench/bench.py $(ARGS)

docs: $(INSTALLED) ## build docs/_build/html offline; warnings and broken links are errors
	PYTHONPATH=. $(RUN) sphinx -q -W --keep-going -n docs docs/_build/html

picture: world ## take a screenshot of the report of a real run for docs/_static/report.png; needs chromium
	$(RUN) rlhf_flow run experiment=sandbox $(LOCAL) run_dir=runs/picture
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1180,1560 \
		--screenshot=runs/picture/report.png "file://$(CURDIR)/runs/picture/report.html"
	.venv/bin/python -c "from PIL import Image; Image.open('runs/picture/report.png').convert('RGB').quantize(128, method=2).save( \
		'docs/_static/report.png', optimize=True)" # 128 colours: 66 kB

format: $(INSTALLED) ## format the source and apply ruff's fixes
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

install: $(INSTALLED) ## set up .venv; the other targets do this too

wheel: $(INSTALLED) ## build dist/rlhf_flow-*.whl
	$(RUN) build --wheel --no-isolation

# torch is installed first, with its own dependencies, from the index that has the build for this machine. The lock has
# the other packages.
$(INSTALLED):
	@command -v "$(PYTHON)" > /dev/null || { echo "make: no $(PYTHON) here. Try make PYTHON=..., a Python 3.11."; exit 2; }
	@echo "installing into .venv: a few minutes the first time"
	@[ -x .venv/bin/python ] || "$(PYTHON)" -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") -r requirements/torch.txt
	$(PIP) --no-deps --require-hashes -r requirements/$(STACK).txt
	$(PIP) --no-deps --no-build-isolation -e .
	@rm -f .venv/installed-* && touch $@

lock: ## resolve requirements/*.txt from pyproject.toml again; needs uv
	$(UV) $(LOCK) $(UV_FLAGS) pyproject.toml --extra cpu --extra dev --extra docs --no-emit-package torch \
		--output-file requirements/cpu.txt
	echo "torch; sys_platform == 'never'" | $(UV) $(LOCK) --universal --override - pyproject.toml \
		--extra tensorboard --extra wandb --extra dev --extra docs --no-emit-package torch \
		--output-file requirements/local.txt
	$(UV) $(LOCK) --python-platform x86_64-manylinux_2_28 pyproject.toml --extra cuda --extra dev \
		--output-file requirements/cuda.txt
	@$(call with_header,cpu,The main job on a processor: vLLM built for it$(comma) Ray$(comma) DeepSpeed. Tested.)
	@$(call with_header,local,One process$(comma) without vLLM$(comma) Ray and DeepSpeed$(comma) on any system: the versions of cpu.txt.)
	@$(call with_header,cuda,The main job on GPUs: Linux$(comma) x86_64$(comma) CUDA 13. Resolved$(comma) and not tested yet.)

comma := ,
define with_header
{ echo "# $(2)"; echo "# Written by make lock from pyproject.toml$(if $(filter-out cuda,$(1)),; torch.txt comes first)."; \
	cat requirements/$(1).txt; } > requirements/new && mv requirements/new requirements/$(1).txt
endef

clean: ## remove build outputs; keeps .venv, runs/ and the sandbox world
	rm -rf build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find rlhf_flow tests scripts -name __pycache__ -prune -exec rm -rf {} +
