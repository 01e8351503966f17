# Two commands are all a fresh machine needs: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
FAMILY ?= lavcap
DEMO ?= outputs/demo$(if $(filter-out lavcap,$(FAMILY)),-$(FAMILY))
TOY := configs/toy$(if $(filter-out lavcap,$(FAMILY)),_$(FAMILY)).yaml
WORLD := $(if $(filter dali,$(FAMILY)),natural,free)
SEED ?= 42
WORKERS ?= 2

BIN := $(VENV)/bin
OLDEST := .cache/oldest
SCALE := .cache/scale
# One thread per process: what is computed is small, and two processes go side by side.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Workers take whole files, so that the fixtures of a file are made once, in the order of tests/conftest.py.
SHARED := $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Of what is installed most is never imported: modules are compiled when they are.
PIP := $(BIN)/python -m pip install --quiet --no-compile
LAUNCH := $(BIN)/accelerate launch --quiet --config_file configs/accelerate/one_process.yaml

# Where a version of the libraries can matter: what calls them. Elsewhere one test shows it.
VERSIONED := $(addprefix tests/,flat data models publishing contract \
	$(addprefix training/test_,lora_training.py losses.py resuming.py train_hf.py trainer.py) \
	conversion/test_conversion.py::test_golden_vectors_come_out_of_the_converted_checkpoint \
	conversion/test_avcap_conversion.py::test_tokens_logits_and_loss_are_the_released_ones \
	conversion/test_dali_conversion.py::test_logits_loss_and_captions_are_the_released_ones \
	preparation/test_preparation.py::test_official_rows_and_films_become_a_manifest)
# Commands of the pages and scores by Java, on which the versions of the libraries have no bearing.
ONCE := --ignore tests/commands/test_documentation.py --ignore tests/evaluation/test_java_metrics.py
# What the oldest libraries do there is seen by `make oldest-all`.
NEWEST := --ignore tests/publishing/test_answers.py
REHEARSAL := .cache/rehearsal
REHEARSED := configs/toy.yaml --tokenizer_name $(REHEARSAL)/raw/tokenizer --per_device_train_batch_size 4 \
	--eval_strategy no --max_new_tokens 8 --num_beams 2

.PHONY: help install demo rehearsal test test-all benchmark-gpu quick unit contract hostile every scale-test oldest oldest-all lint clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## make the virtual environment and install everything into it

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable ".[demo,report,test]"
	touch $@

demo: install  ## the toy world: generate, train, evaluate, report, caption unseen films (FAMILY=lavcap, avcap, dali)
	@test -n "$(filter lavcap avcap dali,$(FAMILY))" || \
		{ echo "error: FAMILY is $(FAMILY), expected lavcap, avcap or dali" >&2; exit 2; }
	@test ! -e "$(DEMO)" || { echo "error: $(DEMO): holds another run; move it away, or: make demo DEMO=outputs/second" >&2; exit 2; }
	$(BIN)/python scripts/make_toy_world.py --world $(WORLD) --output "$(DEMO)/data" --seed $(SEED)
	@$(MAKE) --no-print-directory train-$(FAMILY)
	$(BIN)/python scripts/evaluate.py --model "$(DEMO)/model" --data_dir "$(DEMO)/data" --output "$(DEMO)/evaluation"
	$(BIN)/lavcap caption "$(DEMO)"/data/videos/*_clip.mp4 --model "$(DEMO)/model" \
		--output_dir "$(DEMO)/captions" --output_format txt srt jsonl
	$(BIN)/python scripts/write_report.py --model "$(DEMO)/model" --data_dir "$(DEMO)/data" \
		--evaluation "$(DEMO)/evaluation" --captions "$(DEMO)/captions/captions.jsonl" --output "$(DEMO)"
	@echo; echo "$(DEMO)/data/videos/new_clip.mp4, which is in no split:"; cat "$(DEMO)/captions/new_clip.txt"
	@echo; echo "$(DEMO)/captions/long_clip.srt:"; cat "$(DEMO)/captions/long_clip.srt"
	@echo; echo "In the browser: $(BIN)/lavcap demo $(DEMO)/model --examples $(DEMO)/data/videos/*_clip.mp4"

.PHONY: train-lavcap train-avcap train-dali

train-lavcap train-avcap:
	$(LAUNCH) train_hf.py $(TOY) --data_dir "$(DEMO)/data" --tokenizer_name "$(DEMO)/data/tokenizer" \
		--output_dir "$(DEMO)/model" --seed $(SEED)

STAGE = $(LAUNCH) train_hf.py configs/toy_dali/$(1).yaml --data_dir "$(DEMO)/$(or $(2),data)" --seed $(SEED)

train-dali:  # a captioner of pictures, which comes to caption sounds
	$(call STAGE,base) --tokenizer_name "$(DEMO)/data/tokenizer" --output_dir "$(DEMO)/base"
	$(call STAGE,prefix) --model_name_or_path "$(DEMO)/base" --output_dir "$(DEMO)/prefix"
	$(call STAGE,align) --model_name_or_path "$(DEMO)/prefix" --output_dir "$(DEMO)/align"
	for split in train val; do \
		$(BIN)/python scripts/caption.py --data_dir "$(DEMO)/data" --split $$split --seed $(SEED) --batch_size 50 \
			--as_dataset "$(DEMO)/pseudo_captions" --model "$(DEMO)/prefix" --parts_from "$(DEMO)/align" \
			--modalities audio video || exit; \
	done
	$(call STAGE,distil,pseudo_captions) --model_name_or_path "$(DEMO)/prefix" --parts_from "$(DEMO)/align" \
		--output_dir "$(DEMO)/model"

rehearsal: install  ## the way of a real data set in small: prepare, features, shards, train, LoRA, merge, evaluate
	rm -rf $(REHEARSAL)
	$(BIN)/python scripts/make_toy_world.py --raw --output $(REHEARSAL)/raw \
		--train_clips 24 --validation_clips 6 --test_clips 6
	for split in train val test; do \
		$(BIN)/python scripts/prepare_audiocaps.py --annotations $(REHEARSAL)/raw/$$split.csv \
			--media $(REHEARSAL)/raw/media --output $(REHEARSAL)/prepared --window 4 --dataset_version toy \
			|| exit; \
	done
	$(LAUNCH) train_hf.py $(REHEARSED) --data_dir $(REHEARSAL)/prepared --max_steps 2 --output_dir $(REHEARSAL)/start
	$(BIN)/python scripts/extract_visual_features.py --data_dir $(REHEARSAL)/prepared --split train val test \
		--model $(REHEARSAL)/start
	$(BIN)/python scripts/write_shards.py --data_dir $(REHEARSAL)/prepared --media $(REHEARSAL)/raw/media \
		--split train --output $(REHEARSAL)/shards
	$(LAUNCH) train_hf.py $(REHEARSED) --model_name_or_path $(REHEARSAL)/start --data_dir $(REHEARSAL)/shards \
		--validation_data_dir $(REHEARSAL)/prepared --streaming true --cache_features false --instructions released \
		--frequency_mask 16 --time_mask 64 --max_steps 6 --output_dir $(REHEARSAL)/model
	$(LAUNCH) train_hf.py configs/toy_lora.yaml --model_name_or_path $(REHEARSAL)/model \
		--data_dir $(REHEARSAL)/prepared --per_device_train_batch_size 4 --max_steps 4 --save_steps 2 \
		--eval_strategy no --output_dir $(REHEARSAL)/lora
	$(BIN)/python scripts/merge_lora.py $(REHEARSAL)/lora --output $(REHEARSAL)/merged
	$(BIN)/python scripts/evaluate.py --model $(REHEARSAL)/merged --data_dir $(REHEARSAL)/prepared \
		--output $(REHEARSAL)/evaluation --metrics bleu_4 rouge_l cider_d --max_new_tokens 8

test: lint quick oldest  ## run the checks that a change must pass, in a quarter of an hour

test-all: lint every rehearsal scale-test oldest-all  ## run every check, before work is called done

quick: install  ## run all quick tests, this project's and Transformers' own
	$(BIN)/python scripts/fetch_library_tests.py
	$(SHARED) -m "not slow"

unit: install  ## run the quick tests of this project that are no whole runs, in five minutes
	$(SHARED) -m "not slow and not scale and not whole" --ignore tests/contract

contract: install  ## run Transformers' own common tests on this project's classes
	$(BIN)/python scripts/fetch_library_tests.py
	$(SHARED) tests/contract

every: install
	$(BIN)/python scripts/fetch_library_tests.py
	$(SHARED) -m "not scale"

hostile: install  ## give 10,000 damaged files to what reads them, in processes of their own
	$(SHARED) tests/commands/test_hostile.py

scale-test: $(SCALE)/installed  ## run all tests of training in several processes: DDP, DeepSpeed, FSDP2
	PYTHONPATH="$(CURDIR)/$(SCALE)" $(PYTEST) -m scale tests

# DeepSpeed is not in the virtual environment: where it is, Accelerate imports it, and it writes to standard output.
$(SCALE)/installed: constraints-scale.txt | install
	rm -rf $(SCALE)
	DS_BUILD_OPS=0 $(PIP) --no-deps --no-build-isolation --target $(SCALE) \
		--requirement constraints-scale.txt
	touch $@

oldest: $(OLDEST)/installed  ## run the quick tests where a version can matter, with the oldest that are supported
	PYTHONPATH="$(CURDIR)/$(OLDEST)" $(BIN)/python scripts/fetch_library_tests.py
	PYTHONPATH="$(CURDIR)/$(OLDEST)" $(SHARED) -m "not slow and not scale" $(VERSIONED) $(NEWEST)

oldest-all: $(OLDEST)/installed
	PYTHONPATH="$(CURDIR)/$(OLDEST)" $(BIN)/python scripts/fetch_library_tests.py
	PYTHONPATH="$(CURDIR)/$(OLDEST)" $(SHARED) -m "not scale" $(ONCE)

$(OLDEST)/installed: constraints-oldest.txt | install
	rm -rf $(OLDEST)
	$(PIP) --no-deps --target $(OLDEST) --requirement constraints-oldest.txt
	touch $@

benchmark-gpu: install  ## measure on a GPU what has to do with one; random weights of a 7B
	$(BIN)/python scripts/benchmark.py --device cuda --recipe configs/lavcap_llama2_7b.yaml --output benchmark_gpu.json \
		--part transport filter_bank dali_entropic decoding throughput training folder captioning

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove the virtual environment and what was fetched
	rm -rf $(VENV) .cache
