# FM-Net: `make help` lists what there is. Variables are given on the command line:
#   make preprocess DATA=/brats            make train PRESET=fm_net STORE=brats.zarr

PYTHON ?= python3
EXTRAS ?= preprocess,train,s3,peers,dev
STORE  ?= brats.zarr
PRESET ?= fm_net
RUN    ?= runs/$(PRESET)
SPLIT  ?= test
OUT    ?= predictions
SET    ?=
RESUME ?=
REPAIR ?=
DROP_ABSENT ?=
DEVICE ?= auto
MINUTES ?= 20
DRY    ?=
ONLY   ?=
DEMO   ?= demo
DEMO_PARTS = $(foreach part,phantoms phantoms.zarr run predictions,$(DEMO)/$(part))

VENV := .venv
PY   := $(VENV)/bin/python
READY := $(VENV)/.ready

# An option for a variable, unless that has its default: $(call if-given,STORE,--store)
if-given = $(if $(filter command environment,$(firstword $(origin $(1)))),$(2) "$($(1))")

.DEFAULT_GOAL := help
.PHONY: help setup demo preprocess check status verify report train evaluate predict bench gpu-check test test-slow lint format clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into .venv (EXTRAS=preprocess or EXTRAS=train for one stage)

$(READY): pyproject.toml constraints.txt
	@echo "installing [$(EXTRAS)] into $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)  ## Everything on phantoms, in about 5 minutes: cohort, store, training, predictions, scores
	@rm -rf $(DEMO_PARTS)
	$(PY) -m preprocess phantom $(DEMO)/phantoms --cases 24 --seed 0 --size 80,80,80
	$(PY) -m preprocess run $(DEMO)/phantoms --store $(DEMO)/phantoms.zarr
	$(PY) -m train run demo --store $(DEMO)/phantoms.zarr --out $(DEMO)/run
	$(PY) -m train predict $(DEMO)/run $(DEMO)/phantoms/BraTS-PHANTOM-00023-000 --out $(DEMO)/predictions
	$(PY) -m train evaluate $(DEMO)/run --store $(DEMO)/phantoms.zarr --split test

need-%:
	@test -n "$($*)" || { echo "$* is missing: make $(firstword $(MAKECMDGOALS)) $*=/path/to/$(if $(filter DATA,$*),brats (the folder that holds the cases),case (or a cohort, or a store))" >&2; exit 2; }

preprocess: need-DATA $(READY)  ## BraTS folder to store: DATA=/brats [STORE=brats.zarr] [SET='key=value …'] [DROP_ABSENT=1]
	$(PY) -m preprocess run "$(DATA)" --store "$(STORE)" $(if $(DROP_ABSENT),--drop-absent) $(foreach item,$(SET),--set '$(item)')

check: need-DATA $(READY)  ## What is wrong with a folder, case by case: DATA=/brats [SET='key=value …']
	$(PY) -m preprocess check "$(DATA)" $(foreach item,$(SET),--set '$(item)')

status: $(READY)  ## Cases done, failed and missing [STORE=brats.zarr]
	$(PY) -m preprocess status "$(STORE)"

verify: $(READY)  ## Read every byte of a store again; REPAIR=1 drops what is damaged [STORE=brats.zarr]
	$(PY) -m preprocess verify "$(STORE)" $(if $(REPAIR),--repair)

report: $(READY)  ## Quality report of a store, one HTML page [STORE=brats.zarr]
	$(PY) -m preprocess report "$(STORE)"

train: $(READY)  ## Store to trained model: [STORE=brats.zarr] [PRESET=fm_net] [RUN=runs/fm_net] [SET='key=value …'] [RESUME=1]
	$(PY) -m train run $(PRESET) --store "$(STORE)" --out "$(RUN)" $(if $(RESUME),--resume) $(foreach item,$(SET),--set '$(item)')

evaluate: $(READY)  ## Whole-volume scores and a picture: [RUN=runs/fm_net] [STORE=brats.zarr] [SPLIT=test] [SET=inference.flips=true]
	$(PY) -m train evaluate "$(RUN)" --store "$(STORE)" --split $(SPLIT) $(foreach item,$(SET),--set '$(item)')

predict: need-INPUT $(READY)  ## NIfTI masks for a case, a cohort or a store: INPUT=/case [RUN=runs/fm_net] [OUT=predictions]
	$(PY) -m train predict "$(RUN)" "$(INPUT)" --out "$(OUT)" $(foreach item,$(SET),--set '$(item)')

bench: $(READY)  ## How fast training is here, beside others: [DEVICE=auto] [STORE=…] [MINUTES=20] [OUT=docs/benchmarks/] [ONLY='steps peers …'] [SET='key=value …'] [DRY=1]
	$(PY) -m train bench $(PRESET) $(foreach item,$(ONLY),--only $(item)) --device $(DEVICE) --minutes $(MINUTES) $(call if-given,STORE,--store) $(foreach item,$(SET),--set '$(item)') \
		$(if $(DRY),--dry-run $(call if-given,OUT,--out),--out "$(if $(filter command environment,$(firstword $(origin OUT))),$(OUT),docs/benchmarks/)")

gpu-check: $(READY)  ## Is training on this GPU right: [DEVICE=auto] [STORE=…] [MINUTES=20] [OUT=runs/gpu-check/] [ONLY='resume …'] [DRY=1]
	$(PY) -m train gpu-check $(foreach item,$(ONLY),--only $(item)) --device $(DEVICE) --minutes $(MINUTES) $(or $(call if-given,STORE,--store),$(if $(DRY),,$(if $(wildcard $(STORE)),--store "$(STORE)"))) \
		$(if $(DRY),--dry-run $(call if-given,OUT,--out),--out "$(if $(filter command environment,$(firstword $(origin OUT))),$(OUT),runs/gpu-check/)")

test: $(READY)  ## Every test but the slow ones, under 15 minutes on two cores
	$(PY) -m pytest -m "not slow"

test-slow: $(READY)  ## Clusters, faults and experiments
	$(PY) -m pytest -m slow

lint: $(READY)  ## Style, types and import borders
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY)  ## Put the code into its one style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## Remove the demo's output
	rm -rf $(DEMO_PARTS)
