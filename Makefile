# Two commands are all a fresh machine needs: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= outputs/demo
SEED ?= 42

BIN := $(VENV)/bin
OLDEST := .cache/oldest
LAUNCH := $(BIN)/accelerate launch --quiet --config_file configs/accelerate/one_process.yaml

.PHONY: help install demo test unit contract oldest lint clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## make the virtual environment and install everything into it

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test]"
	touch $@

demo: install  ## generate the toy world, train on it, evaluate, report, and caption an mp4 it has never seen
	@test ! -e "$(DEMO)" || { echo "error: $(DEMO): holds another run; move it away, or: make demo DEMO=outputs/second" >&2; exit 2; }
	$(BIN)/python scripts/make_toy_world.py --output "$(DEMO)/data" --seed $(SEED)
	$(LAUNCH) train_hf.py configs/toy.yaml --data_dir "$(DEMO)/data" --tokenizer_name "$(DEMO)/data/tokenizer" \
		--output_dir "$(DEMO)/model" --seed $(SEED)
	$(BIN)/python scripts/evaluate.py --model "$(DEMO)/model" --data_dir "$(DEMO)/data" --output "$(DEMO)/evaluation"
	$(BIN)/python scripts/write_report.py --model "$(DEMO)/model" --data_dir "$(DEMO)/data" \
		--evaluation "$(DEMO)/evaluation" --output "$(DEMO)"
	@echo; echo "$(DEMO)/data/videos/new_clip.mp4, which is in no split:"
	$(BIN)/python scripts/caption.py "$(DEMO)/data/videos/new_clip.mp4" --model "$(DEMO)/model"

test: lint unit contract oldest  ## run every check, the quickest first

unit: install  ## run the tests of this project
	$(BIN)/python -m pytest --ignore tests/contract

contract: install  ## run Transformers' own common tests on LAVCap
	$(BIN)/python scripts/fetch_library_tests.py
	$(BIN)/python -m pytest tests/contract

oldest: $(OLDEST)/installed  ## run all tests with the oldest Transformers that is supported
	PYTHONPATH=$(OLDEST) $(BIN)/python scripts/fetch_library_tests.py
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest

$(OLDEST)/installed: constraints-oldest.txt | install
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OLDEST) --requirement constraints-oldest.txt
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove the virtual environment and what was fetched
	rm -rf $(VENV) .cache
