"""Training and evaluation by several processes: data parallelism, DeepSpeed's ZeRO and FSDP2, all on the CPU.

Each run is one of `accelerate launch` with a file of `configs/accelerate`; the tests share them. It is as long as to
save once, go on, and end with the picture and then the sound of a process's clips lacking. FSDP through the
Trainer is not among them: on a CPU Accelerate does not apply it, so what it does to the model is tested by itself.
"""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from model_parts import LORA
from safetensors.torch import load_file
from stranger import import_path
from tiny_models import tiny_model

from conftest import ROOT
from lavcap.data.manifest import write_split
from lavcap.data.splits import load_split
from lavcap.training.distributed import shares_weights
from modeling_lavcap import LavcapForConditionalGeneration
from processing_avcap import AvcapProcessor
from processing_dali import DaliProcessor
from processing_lavcap import LavcapProcessor
from tiny_avcap import tiny_avcap
from tiny_dali import tiny_dali


pytestmark = [pytest.mark.scale, pytest.mark.slow]
needs_deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="make scale-test installs DeepSpeed")

STEPS, SAVED = 8, 4
LONGEST = 180  # seconds of a launch, ten times what it takes
VARIANTS = {
    "audio_only": {"fusion": "audio_only"},
    "video_only": {"fusion": "video_only"},
    "concat_channel": {"fusion": "concat_channel", "num_video_frames": 3},
    "cross_attention": {"fusion": "cross_attention", "cross_attention_heads": 3, "transport_attention": "barycentric"},
}
OTHER_FAMILIES = ("avcap", "dali", "alignment")
RECIPE = {
    "lora": LORA,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "cpu_threads": 1,
    "max_steps": STEPS,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": SAVED,
    "per_device_eval_batch_size": 2,
    "save_steps": SAVED,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "frequency_mask": 16,
    "time_mask": 12,
    "noise": True,
    "audio_only_rate": 0.1,
    "video_only_rate": 0.1,
    "instructions": ["released"],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, toy_world, saved_model, tokenizer) -> Path:
    """A folder with the recipe of the runs, their data, and shards of them.

    The last step has a clip less. Of the clips of each step the last two, those of the second of two processes, have
    no picture in steps 3, 4 and 5, and no sound in steps 6, 7 and 8.
    """
    folder = tmp_path_factory.mktemp("engines")
    clips = load_split(toy_world, "train").to_list()
    rows = [clips[number % len(clips)] | {"id": f"clip {number}"} for number in range(4 * STEPS - 1)]
    for number, row in enumerate(rows):
        row["captions"] = row["captions"][:1]
        lacking = None if number % 4 < 2 or number < 8 else "frames" if number < 20 else "audio"
        row |= {lacking: None} if lacking else {}
    write_split(folder / "data", "train", rows, {"expected": len(rows)})
    write_split(folder / "data", "val", load_split(toy_world, "val").to_list(), {"expected": 6})
    recipe = RECIPE | {"model_name_or_path": str(saved_model), "data_dir": str(folder / "data")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "whole.yaml").write_text(yaml.safe_dump(recipe | {"lora": None}))
    for name, (model, processor, fields) in other_families(len(tokenizer)).items():
        model.save_pretrained(folder / name)
        processor.from_config(model.config, tokenizer).save_pretrained(folder / name)
        fields = {"lora": None, "instructions": None, "model_name_or_path": str(folder / name)} | fields
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe | fields))
    command = ("scripts/write_shards.py", "--split", "train", "--rows_per_shard", "12")
    run(*command, "--data_dir", folder / "data", "--media", toy_world, "--output", folder / "shards")
    return folder


def other_families(vocab_size: int) -> dict[str, tuple]:
    """Models without dropout, their processors, and what their recipes have of their own."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    words = {"vocab_size": vocab_size}
    alignment = {"model_class": "DaliForAlignment", "config_overrides": {"alignment": "attentive_transport"}}
    alignment["max_train_clips"] = 15  # two epochs: in the first one the attentions rest
    return {
        "avcap": (tiny_avcap(text_config=still | words), AvcapProcessor, {}),
        "dali": (tiny_dali(text_config=words, use_prefix=True), DaliProcessor, {"freeze": ["vision_tower"]}),
        "alignment": (tiny_dali(text_config=words), DaliProcessor, alignment),
    }


def run(*command: object):
    """Run a command to its end; processes that wait for each other for good are ended."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    options["env"] = os.environ | {"PYTHONPATH": import_path()}  # `launched.py` takes models of the tests
    started = subprocess.Popen([sys.executable, *map(str, command)], start_new_session=True, **options)
    try:
        _, errors = started.communicate(timeout=LONGEST)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, errors[-4000:]


def launch(folder: Path, settings: str, processes: int, jobs: dict[str, dict]) -> dict[str, dict]:
    """Records of jobs of `launched.py`, one after the other in the same processes."""
    folder.mkdir()
    listed = [job | {"record": str(folder / f"{name}.json")} for name, job in jobs.items()]
    (folder / "jobs.json").write_text(json.dumps(listed))
    options = ("--config_file", ROOT / "configs" / "accelerate" / f"{settings}.yaml", "--num_processes", processes)
    run("-m", "accelerate.commands.launch", *options, ROOT / "tests" / "support" / "launched.py", folder / "jobs.json")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in jobs}


def training(workplace: Path, output: Path, batch_size: int, recipe: str = "recipe", **fields: object) -> dict:
    options = {"output_dir": output, "per_device_train_batch_size": batch_size} | fields
    arguments = [str(item) for name, value in options.items() for item in (f"--{name}", value)]
    return {"train": [str(workplace / f"{recipe}.yaml"), *arguments]}


def further_trainings(workplace: Path, folder: Path, batch_size: int) -> dict[str, dict]:
    """Of half precision, of a stream, and of every variant."""
    streamed = {"data_dir": workplace / "shards", "validation_data_dir": workplace / "data", "streaming": "true"}
    streamed |= {"shuffle_buffer": 8, "max_steps": STEPS + 1, "save_strategy": "no"}
    jobs = {
        "bfloat16": half_precision(workplace, folder, batch_size),
        "streamed": training(workplace, folder / "streamed", batch_size, **streamed),
    }
    for name in VARIANTS:
        fields = {"model_name_or_path": workplace / name, "max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}
        fields["max_train_clips"] = 8  # the others lack a modality
        jobs[name] = training(workplace, folder / name, batch_size, **fields)
    return jobs | trainings_of_families(workplace, folder, batch_size)


def trainings_of_families(workplace: Path, folder: Path, batch_size: int) -> dict[str, dict]:
    """Of the whole of each other family, through steps in which some clips lack a modality."""
    fields = {"eval_strategy": "no", "save_strategy": "no"}
    return {name: training(workplace, folder / name, batch_size, name, **fields) for name in OTHER_FAMILIES}


def half_precision(workplace: Path, folder: Path, batch_size: int) -> dict:
    fields = {"model_dtype": "bfloat16", "bf16": "true", "max_steps": 8, "save_steps": 8, "eval_strategy": "no"}
    return training(workplace, folder / "bfloat16", batch_size, **fields, gradient_checkpointing="true")


def other_trainings(workplace: Path, folder: Path, batch_size: int) -> dict[str, dict]:
    """One of the whole model, one that stops for its metric, whose first value is the best, and one for its losses."""
    best = {"load_best_model_at_end": "true", "metric_for_best_model": "loss", "greater_is_better": "true"}
    best |= {"early_stopping_patience": 2, "eval_steps": 2, "save_steps": 2, "save_total_limit": 2}
    whole = {"recipe": "whole", "max_steps": 3, "eval_strategy": "no", "save_strategy": "no"}
    nonfinite = {"learning_rate": 1e38, "eval_strategy": "no", "save_strategy": "no"}
    return {
        "whole": training(workplace, folder / "whole", batch_size, **whole),
        "best": training(workplace, folder / "best", batch_size, **best),
        "nonfinite": training(workplace, folder / "nonfinite", batch_size, **nonfinite),
    }


def scoring(saved_model: Path, toy_world: Path) -> dict:
    return {"evaluate": str(saved_model), "data_dir": str(toy_world), "most": 7}


@pytest.fixture(scope="module")
def variants(workplace, fitting_config, tokenizer):
    for name, fields in VARIANTS.items():
        model = tiny_model(**fields, text_config={"vocab_size": fitting_config.text_config.vocab_size})
        model.save_pretrained(workplace / name)
        LavcapProcessor.from_config(model.config, copy.deepcopy(tokenizer)).save_pretrained(workplace / name)


@pytest.fixture(scope="module")
def alone(workplace, saved_model, toy_world) -> dict[str, dict]:
    """Records of one process that takes four clips in each step."""
    folder = workplace / "alone"
    jobs = {"lora": training(workplace, folder / "lora", 4), "scored": scoring(saved_model, toy_world)}
    return launch(folder, "one_process", 1, jobs)


@pytest.fixture(scope="module")
def ddp(workplace, saved_model, toy_world) -> dict[str, dict]:
    """Records of two processes that take two clips each."""
    folder = workplace / "ddp"
    jobs = {"lora": training(workplace, folder / "lora", 2), "resumed": resumed(workplace, folder)}
    return launch(folder, "ddp", 2, jobs | {"scored": scoring(saved_model, toy_world)})


@pytest.fixture(scope="module")
def alone_further(workplace, variants) -> dict[str, dict]:
    folder = workplace / "alone further"
    return launch(folder, "one_process", 1, further_trainings(workplace, folder, 4))


@pytest.fixture(scope="module")
def ddp_further(workplace, variants) -> dict[str, dict]:
    folder = workplace / "ddp further"
    jobs = further_trainings(workplace, folder, 2) | other_trainings(workplace, folder, 2)
    return launch(folder, "ddp", 2, jobs)


def resumed(workplace: Path, folder: Path) -> dict:
    checkpoint = folder / "lora" / f"checkpoint-{SAVED}"
    return training(workplace, folder / "resumed", 2, resume_from_checkpoint=checkpoint)


@pytest.fixture(scope="module", params=["deepspeed_zero2", "deepspeed_zero3"])
def zero(workplace, request) -> tuple[Path, dict[str, dict]]:
    """Folder and records of two processes under DeepSpeed."""
    folder = workplace / request.param
    jobs = {"lora": training(workplace, folder / "lora", 2), "resumed": resumed(workplace, folder)}
    jobs |= {"bfloat16": half_precision(workplace, folder, 2)} | trainings_of_families(workplace, folder, 2)
    jobs |= other_trainings(workplace, folder, 2)
    return folder, launch(folder, request.param, 2, jobs)


def assert_same_course(record: dict, expected: dict, processes: int, engine: str, steps: int = STEPS):
    assert (record["processes"], record["engine"]) == (processes, engine)
    assert len(expected["losses"]) == steps
    assert record["losses"] == pytest.approx(expected["losses"][-len(record["losses"]) :], abs=1e-4)
    assert expected["losses"][-1] < expected["losses"][0]


def assert_trained_moved(record: dict):
    """In the last step: at the first one the gradient of LoRA's first matrices is zero."""
    assert record["moved"] == record["trained"] and len(record["trained"]) == 19 and record["frozen"] > 60


def assert_adapter_alone(checkpoint: Path, trained: list[str]):
    """Nothing of the frozen weights is in a checkpoint, under any name."""
    weights = load_file(checkpoint / "adapter_model.safetensors")
    assert len(weights) == len(trained) and not list(checkpoint.glob("model*.safetensors"))
    adapter = (checkpoint / "adapter_model.safetensors").stat().st_size
    others = [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".bin", ".safetensors")]
    assert sum(path.stat().st_size for path in others) < 12 * adapter


def test_two_processes_have_the_losses_of_one_also_when_one_lacks_a_modality(alone, ddp):
    assert_same_course(alone["lora"], alone["lora"], 1, "NO")
    assert_same_course(ddp["lora"], alone["lora"], 2, "MULTI_CPU")
    assert ddp["lora"]["captions"] == alone["lora"]["captions"] and len(ddp["lora"]["captions"][0]) == 6


def test_two_processes_on_a_stream_have_the_losses_of_one(alone_further, ddp_further):
    assert_same_course(ddp_further["streamed"], alone_further["streamed"], 2, "MULTI_CPU", steps=STEPS + 1)


@pytest.mark.parametrize("name", [*VARIANTS, *OTHER_FAMILIES])
def test_every_fusion_and_family_trains_in_two_processes(alone_further, ddp_further, name):
    assert ddp_further[name]["processes"] == 2
    record = ddp_further[name]
    assert record["losses"] == pytest.approx(alone_further[name]["losses"], abs=1e-4, rel=1e-6)
    resting = set(record["trained"]) - set(record["moved"])
    # Attentions whose weights sum to 1 have no use for some of their biases.
    assert record["moved"] and all(weight.startswith("scorers.") and weight.endswith("bias") for weight in resting)


@needs_deepspeed
@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_another_family_has_the_losses_of_one_process_under_zero(alone_further, zero, name):
    assert zero[1][name]["losses"] == pytest.approx(alone_further[name]["losses"], abs=1e-4, rel=1e-6)
    assert len(alone_further[name]["losses"]) == STEPS


def test_what_is_trained_moves_and_nothing_else(alone, ddp):
    assert_trained_moved(alone["lora"])
    assert_trained_moved(ddp["lora"])


def assert_goes_on(folder: Path):
    """What a continued run tells is what the whole one does, and its settings are taken for the same ones."""
    runs = [folder / name for name in ("lora", "resumed")]
    losses = [json.loads((run / "train_results.json").read_text())["train_loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    manifests = [json.loads((run / f"checkpoint-{STEPS}" / "checkpoint.json").read_text()) for run in runs]
    assert manifests[0]["course"] == manifests[1]["course"]
    assert manifests[0]["totals"]["logged_step"] == manifests[1]["totals"]["logged_step"] == STEPS


def test_two_processes_go_on_from_their_checkpoint(workplace, ddp):
    assert_goes_on(workplace / "ddp")
    assert_adapter_alone(workplace / "ddp" / "lora" / f"checkpoint-{SAVED}", ddp["lora"]["trained"])
    assert ddp["resumed"]["losses"] == pytest.approx(ddp["lora"]["losses"][SAVED:], abs=1e-6)
    assert len(ddp["resumed"]["losses"]) == STEPS - SAVED


@needs_deepspeed
def test_zero_has_the_losses_and_captions_of_one_process(alone, zero):
    _, records = zero
    assert_same_course(records["lora"], alone["lora"], 2, "DEEPSPEED")
    assert records["lora"]["captions"] == alone["lora"]["captions"]


@needs_deepspeed
def test_under_zero_what_is_trained_moves_and_nothing_else(zero):
    assert_trained_moved(zero[1]["lora"])


@needs_deepspeed
def test_a_checkpoint_of_zero_is_an_adapter_that_loads_and_goes_on(zero, ddp, workplace):
    folder, records = zero
    checkpoint = folder / "lora" / f"checkpoint-{SAVED}"
    assert_adapter_alone(checkpoint, records["lora"]["trained"])
    expected = load_file(workplace / "ddp" / "lora" / f"checkpoint-{SAVED}" / "adapter_model.safetensors")
    for name, weight in load_file(checkpoint / "adapter_model.safetensors").items():
        assert (weight - expected[name]).abs().max() < 1e-4
    assert LavcapForConditionalGeneration.from_pretrained(checkpoint).peft_config
    assert_same_course(records["resumed"], records["lora"], 2, "DEEPSPEED")
    assert len(records["resumed"]["losses"]) == STEPS - SAVED
    assert_goes_on(folder)


@needs_deepspeed
def test_zero_has_the_losses_of_one_process_in_bfloat16_too(alone, alone_further, ddp_further, zero):
    """With gradient checkpointing. DeepSpeed casts all weights, others the frozen ones; float32 is farther off."""
    expected = alone_further["bfloat16"]["losses"]
    assert ddp_further["bfloat16"]["losses"] == pytest.approx(expected, abs=2e-3)
    assert zero[1]["bfloat16"]["losses"] == pytest.approx(expected, abs=2e-3)
    assert zero[1]["bfloat16"]["engine"] == "DEEPSPEED" and len(expected) == 8
    for record in (alone_further["bfloat16"], ddp_further["bfloat16"], zero[1]["bfloat16"]):
        assert set(record["moved"]) <= set(record["trained"]) and len(record["moved"]) > 10
    # Under DeepSpeed the scale of the alignment, in bfloat16, is too coarse for its last step.
    for record in (alone_further["bfloat16"], ddp_further["bfloat16"]):
        assert record["moved"] == record["trained"]
    assert alone["lora"]["losses"][:8] != pytest.approx(expected, abs=2e-3)


def assert_best_is_kept(folder: Path, record: dict):
    """The course ends after two evaluations that were no better, with the weights of the first checkpoint."""
    assert len(record["losses"]) == 6 and len(record["captions"]) == 4  # of three evaluations and of the best model
    assert record["captions"][-1] == record["captions"][0]
    checkpoint = folder / "checkpoint-2"
    assert json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"] == str(checkpoint)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]
    paths = (checkpoint, folder, folder / "checkpoint-6")
    best, last, other = (load_file(path / "adapter_model.safetensors") for path in paths)
    assert all(last[name].equal(weight) for name, weight in best.items()) and best.keys() == last.keys()
    assert any(not other[name].equal(weight) for name, weight in best.items())


def assert_statistics_are_those_of_the_saved_model(folder: Path, record: dict, start: Path):
    """Each process has seen other clips, and has the statistics that one of them has saved."""
    files = (path / "model.safetensors" for path in (start, folder))
    before, saved = (load_file(file)["audio_tower.batch_norm.running_var"] for file in files)
    assert len(record["statistics"]) == record["processes"] == 2 and not before.allclose(saved)
    assert all(statistics == saved.tolist() for statistics in record["statistics"])


def test_two_processes_evaluate_the_statistics_that_are_saved(workplace, ddp_further, saved_model):
    assert_statistics_are_those_of_the_saved_model(
        workplace / "ddp further" / "whole", ddp_further["whole"], saved_model
    )


def test_two_processes_stop_early_and_end_with_the_best_model(workplace, ddp_further):
    assert_best_is_kept(workplace / "ddp further" / "best", ddp_further["best"])


def test_two_processes_stop_after_steps_that_are_not_finite(ddp_further):
    assert "NaN or infinite at step 4 (3 in a row), on clip " in ddp_further["nonfinite"]["stopped"]
    assert "changed no weight" in ddp_further["nonfinite"]["stopped"]


@needs_deepspeed
def test_zero_evaluates_the_statistics_that_are_saved(zero, saved_model):
    folder, records = zero
    assert_statistics_are_those_of_the_saved_model(folder / "whole", records["whole"], saved_model)


@needs_deepspeed
def test_zero_stops_early_and_ends_with_the_best_model(zero):
    folder, records = zero
    assert_best_is_kept(folder / "best", records["best"])


@needs_deepspeed
def test_zero_stops_at_a_step_that_is_not_finite(zero):
    """Its engine has updated by then."""
    stopped = zero[1]["nonfinite"]["stopped"]
    assert "NaN or infinite at step 2 (1 in a row), on clip " in stopped and "DeepSpeed has updated" in stopped


@pytest.mark.parametrize("processes", [2, 3])
def test_every_clip_is_scored_once_in_the_order_of_rows(alone, ddp, processes, workplace, saved_model, toy_world):
    record = ddp["scored"]
    if processes == 3:
        jobs = {"scored": scoring(saved_model, toy_world)}
        record = launch(workplace / "three", "ddp", 3, jobs)["scored"]
    assert record["processes"] == processes and alone["scored"]["processes"] == 1
    assert [len(captions) for captions in record["captions"]] == list(range(1, 8))
    assert record["captions"] == alone["scored"]["captions"]
    for losses, expected in zip(record["eval_losses"], alone["scored"]["eval_losses"], strict=True):
        assert losses == pytest.approx(expected, abs=1e-5) and min(expected) > 0
    assert len({len(caption) for caption in record["captions"][-1]}) > 1 and len(set(record["captions"][-1])) > 3


@pytest.fixture(scope="module")
def sharded(workplace, saved_model, toy_world) -> dict[str, dict]:
    job = {"shard": str(saved_model), "data_dir": str(toy_world)}
    jobs = {dtype: job | {"dtype": dtype} for dtype in ("float32", "bfloat16")}
    return launch(workplace / "sharded", "fsdp2", 2, jobs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fsdp2_shares_out_every_weight_and_trains_and_generates_as_the_whole_model(sharded, dtype):
    """In bfloat16 frozen weights stand beside float32: the adapter, the scale of the alignment, BatchNorm."""
    record = sharded[dtype]
    assert record["processes"] == 2 and record["shared_out"] and record["dtype"] == f"torch.{dtype}"
    assert record["losses"][1] == pytest.approx(record["losses"][0], abs=1e-5)
    assert max(record["differences"].values()) < 1e-6
    assert record["moved"] == record["trained"] and any("logit_scale" in name for name in record["moved"])
    assert record["captions"][1] == record["captions"][0] and len(record["captions"][0]) == 4


def test_processes_that_share_weights_generate_in_step():
    """Those that do not may end early; of FSDP2 the library would not know it."""
    for processes, fsdp in ((1, True), (2, False), (2, True)):
        trainer = SimpleNamespace(args=SimpleNamespace(world_size=processes), is_fsdp_enabled=fsdp)
        assert shares_weights(trainer) == (processes == 2 and fsdp)


def test_no_settings_name_a_device_but_by_their_engine():
    for path in sorted((ROOT / "configs" / "accelerate").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        assert not settings["use_cpu"] and "gpu_ids" not in settings, path
        if "deepspeed_config" in settings:
            assert (ROOT / settings["deepspeed_config"]["deepspeed_config_file"]).is_file()


def test_scripts_do_not_import_deepspeed(toy_world, saved_model):
    """It says which accelerator it takes, on standard output, where the captions are."""
    command = (sys.executable, "-X", "importtime", "scripts/caption.py", toy_world / "videos" / "new_clip.mp4")
    done = subprocess.run([*command, "--model", saved_model], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 9  # windows of 0.48 s
    assert "transformers" in done.stderr and "deepspeed." not in done.stderr.replace("integrations.deepspeed", "")
