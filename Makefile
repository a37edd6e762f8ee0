# `make help` lists the targets and their variables. Variables are given on the command line:
#   make preprocess DATA=/brats            make train PRESET=fm_net STORE=brats.zarr

PYTHON ?= python3
EXTRAS ?= preprocess,train,s3,onnx,peers,docs,dev
STORE  ?= brats.zarr
PRESET ?= fm_net
RUN    ?= runs/$(PRESET)
SPLIT  ?= test
OUT    ?= predictions
SET    ?=
RESUME ?=
FOLDS  ?=
REPAIR ?=
DROP_ABSENT ?=
DEVICE ?= auto
MINUTES ?= 20
DRY    ?=
NAME   ?=
SCALE  ?= small
ONLY   ?=
DEMO   ?= demo
DEMO_PARTS = $(foreach part,phantoms phantoms.zarr run predictions,$(DEMO)/$(part))

VENV  := .venv
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
PREPROCESS := $(VENV)/bin/fmnet-preprocess
TRAIN := $(VENV)/bin/fmnet-train

TARGETS := help setup demo preprocess check status verify report train evaluate predict experiment bench gpu-check \
  test test-slow lint format docs clean

# What each target takes on the command line; every target takes PYTHON and EXTRAS, of its set-up.
takes-setup :=
takes-demo := DEMO
takes-clean := DEMO
takes-preprocess := DATA STORE SET DROP_ABSENT
takes-check := DATA SET
takes-status := STORE
takes-verify := STORE REPAIR
takes-report := STORE
takes-train := STORE PRESET RUN SET RESUME FOLDS
takes-evaluate := RUN PRESET STORE SPLIT SET
takes-predict := INPUT RUN PRESET OUT SET
takes-experiment := NAME SCALE STORE FOLDS OUT SET
takes-bench := PRESET DEVICE STORE MINUTES OUT ONLY SET DRY
takes-gpu-check := DEVICE STORE MINUTES OUT ONLY DRY

# A variable that no target takes would be dropped silently: `make train EPOCHS=3`.
GOALS := $(or $(MAKECMDGOALS),help)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
TAKEN := $(sort $(foreach goal,$(GOALS),$(takes-$(goal))))
UNKNOWN := $(firstword $(filter-out PYTHON EXTRAS -%- MAKEFLAGS MAKEOVERRIDES SHELL $(TAKEN),$(GIVEN)))
lower = $(shell echo $(1) | tr A-Z a-z)
# A variable that another target takes is no setting.
SETTING := $(if $(filter SET,$(TAKEN)),$(filter-out $(foreach name,$(TARGETS),$(takes-$(name))),$(UNKNOWN)))
ifeq ($(filter-out $(TARGETS),$(GOALS))$(if $(UNKNOWN),,none),)
$(error make $(GOALS) takes no variable $(UNKNOWN)$(if $(TAKEN),; it takes $(TAKEN))$(if \
  $(SETTING),. A setting goes into SET: SET='$(call lower,$(UNKNOWN))=$($(UNKNOWN))'))
endif

# A variable's value if it was given, not its default: $(call given,PRESET)
given = $(if $(filter command environment,$(firstword $(origin $(1)))),$($(1)))
# The same as an option: $(call if-given,STORE,--store)
if-given = $(if $(call given,$(1)),$(2) "$($(1))")
# SET='a=1 b=[1, 2]' as --set 'a=1' --set 'b=[1, 2]': a word without =, or with - in front, belongs to
# the one before.
settings = $(if $(strip $(SET)),$(subst ^',,^$(foreach word,$(SET),$(if \
  $(findstring =,$(filter-out -%,$(word))),' --set '$(word),$(word))))')

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

# Messages of these then name make's targets and variables (common/hints.py).
demo preprocess check status verify report train evaluate predict experiment: export FMNET_MAKE := 1

help:  ## List the targets
	@awk -F ' *:= *' '/^takes-/ {sub("takes-", "", $$1); takes[$$1] = $$2} \
	  /^[a-z-]+:.*## / {split($$0, parts, ":.*## "); printf "  %-11s %s\n", parts[1], parts[2]; \
	  if (takes[parts[1]]) printf "  %-11s   %s\n", "", takes[parts[1]]} \
	  /^#: / {if (!shown++) print "\nVariables:"; sub("#: ", "  "); print}' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into .venv

$(READY): pyproject.toml constraints.txt
	@echo "installing [$(EXTRAS)] into $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)  ## Preprocess, train, predict and evaluate 24 phantoms, in 5 minutes
	@rm -rf $(DEMO_PARTS)
	$(PREPROCESS) phantom $(DEMO)/phantoms --cases 24 --seed 0 --size 80,80,80
	$(PREPROCESS) run $(DEMO)/phantoms --store $(DEMO)/phantoms.zarr
	$(TRAIN) run demo --store $(DEMO)/phantoms.zarr --out $(DEMO)/run
	$(TRAIN) predict $(DEMO)/run $(DEMO)/phantoms/BraTS-PHANTOM-00023-000 --out $(DEMO)/predictions
	$(TRAIN) evaluate $(DEMO)/run --store $(DEMO)/phantoms.zarr --split test

need-%:
	@test -n "$($*)" || { echo "$* is missing: make $(firstword $(MAKECMDGOALS)) $*=/path/to/$(if $(filter DATA,$*),brats (the folder that holds the cases),case (or a folder of cases, or a store))" >&2; exit 2; }

check: need-DATA $(READY)  ## Check a folder of cases; writes nothing
	$(PREPROCESS) check "$(DATA)"$(settings)

preprocess: need-DATA $(READY)  ## Preprocess a folder of cases into a store
	$(PREPROCESS) run "$(DATA)" --store "$(STORE)"$(if $(DROP_ABSENT), --drop-absent)$(settings)

status: $(READY)  ## Show which cases are stored, failed or missing
	$(PREPROCESS) status "$(STORE)"

verify: $(READY)  ## Read a store again and compare every checksum
	$(PREPROCESS) verify "$(STORE)"$(if $(REPAIR), --repair)

report: $(READY)  ## Write a store's quality report, one HTML page
	$(PREPROCESS) report "$(STORE)"

# $(call run-training,FOLDER,RESUME,SETTINGS)
run-training = $(TRAIN) run $(if $(2),$(call given,PRESET),$(PRESET)) --store "$(STORE)" --out $(1)$(if $(2), --resume)$(settings)$(3)
# A fold that was begun is resumed with RESUME=1, and one that was not is begun.
define train-folds
@for fold in $$(seq 0 $$(($(FOLDS) - 1))); do \
  if [ -n "$(RESUME)" ] && [ -e "$(RUN)/fold-$$fold" ]; then \
    $(call run-training,"$(RUN)/fold-$$fold",1) || exit; \
  else \
    $(call run-training,"$(RUN)/fold-$$fold",, --set folds=$(FOLDS) --set fold=$$fold) || exit; \
  fi; \
done; $(TRAIN) folds "$(RUN)"/fold-*
endef

train: $(READY)  ## Train a network on a store; with FOLDS=5 one for each fold
	$(if $(FOLDS),$(train-folds),$(call run-training,"$(RUN)",$(RESUME)))

evaluate: $(READY)  ## Score a run on whole volumes: table, JSON and a picture
	$(TRAIN) evaluate "$(RUN)"$(call if-given,STORE, --store) --split $(SPLIT)$(settings)

predict: need-INPUT $(READY)  ## Predict masks as NIfTI files
	$(TRAIN) predict "$(RUN)" "$(INPUT)" --out "$(OUT)"$(settings)

# Phantoms that experiments learn from where no STORE is named, on a grid of 2 mm.
EXPERIMENTS := experiments
PHANTOMS := $(EXPERIMENTS)/phantoms.zarr
$(PHANTOMS): | $(READY)
	rm -rf $(EXPERIMENTS)/phantoms
	$(PREPROCESS) phantom $(EXPERIMENTS)/phantoms --cases 64 --seed 0 --size 128,160,128
	$(PREPROCESS) run $(EXPERIMENTS)/phantoms --store $@ --set spacing_mm=2 --set 'crop=[64, 64, 64]'

experiment: $(READY) $(if $(or $(filter full,$(SCALE)),$(call given,STORE)),,$(PHANTOMS))  ## Repeat an experiment of the paper; NAME=fig4
	$(TRAIN) experiment $(NAME) --scale $(SCALE) --store "$(if $(or $(filter full,$(SCALE)),$(call given,STORE)),$(STORE),$(PHANTOMS))"$(call if-given,OUT, --out)$(call if-given,FOLDS, --folds)$(settings)

bench: $(READY)  ## Measure how fast training is here
	$(PY) -m benchmarks training $(PRESET) $(foreach item,$(ONLY),--only $(item)) --device $(DEVICE) --minutes $(MINUTES) $(call if-given,STORE,--store)$(settings) \
		$(if $(DRY),--dry-run $(call if-given,OUT,--out),--out "$(or $(call given,OUT),docs/benchmarks/)")

gpu-check: $(READY)  ## Check that training on this GPU is right
	$(PY) -m pytest --quiet --no-header --tb=short -m gpu $(or $(foreach item,$(ONLY),tests/gpu/test_$(item).py),tests/gpu) --device $(DEVICE) --minutes $(MINUTES) $(or $(call if-given,STORE,--store),$(if $(DRY),,$(if $(wildcard $(STORE)),--store "$(STORE)"))) \
		$(if $(DRY),--dry $(call if-given,OUT,--out),--out "$(or $(call given,OUT),runs/gpu-check/)")

test: $(READY)  ## Run the quick tests, in under 15 minutes on two cores
	$(PY) -m pytest -m "not slow and not gpu"

test-slow: $(READY)  ## Run the slow tests: clusters, faults, experiments
	$(PY) -m pytest -m "slow and not gpu"

lint: $(READY)  ## Check style, types and imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY)  ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(READY)  ## Build the documentation as pages, site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

clean:  ## Remove the demo's output
	rm -rf $(DEMO_PARTS)

# The variables, as `make help` lists them.
#: DATA=/brats          the folder that holds the cases
#: STORE=brats.zarr     the store, a path or URL
#: PRESET=fm_net        fm_net, fm_net_tuned, unet, attention_unet, demo or FILE
#: RUN=runs/PRESET      the run's folder
#: SET='key=value …'    settings of the manifest, or of the preset in training
#: FOLDS=5              a run for each fold, RUN/fold-0 and so on, then scores
#: RESUME=1             resume the run
#: DROP_ABSENT=1        remove stored cases that are not in DATA
#: REPAIR=1             remove damaged cases from the store
#: NAME=fig4            the experiment; without it all are listed
#: SCALE=small          of an experiment: smoke, small or full
#: SPLIT=test           train, val or test
#: INPUT=/case          a case, a folder of cases, or a store
#: OUT=predictions      the folder that results go to
#: DEMO=demo            the folder that the demo writes to
#: DEVICE=auto          auto, cpu, cuda or cuda:N
#: MINUTES=20           how long measurements may take
#: ONLY='steps …'       the measurements to make
#: DRY=1                try the measurements on tiny networks
#: EXTRAS=preprocess    one stage alone; EXTRAS=train for the other
