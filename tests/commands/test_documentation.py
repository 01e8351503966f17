"""Commands and code of the documentation do what it says, on small stand-ins for the real downloads."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from avcap_golden import below, random_avcap
from dali_golden import write_released as write_dali
from media_files import write_media
from option_tables import option_table
from released_files import ced_file, clip_folder, text_folder, trained_parts
from released_reference import OPTIONS, random_state
from stranger import run_inside
from transformers import GitConfig, GitForCausalLM

from configuration_lavcap import LavcapConfig
from conftest import ROOT
from lavcap.captioning.records import FORMATS
from lavcap.commands.caption import parser as caption_parser
from lavcap.commands.demo import parser as demo_parser
from lavcap.commands.serve import parser as serve_parser
from lavcap.models.lora import add_lora, trainable_table
from lavcap.toy.dataset import train_tokenizer
from modeling_lavcap import LavcapForConditionalGeneration


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def run(words: list[str], folder) -> str:
    """What a command of a page prints, run in a folder as it stands there."""
    done = run_inside(*words, folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def words_of(command: str) -> list[str]:
    """Script and arguments of a command of a page."""
    python, *words = command.replace("\\\n", " ").split()
    assert python == ".venv/bin/python"
    return words


def run_code(code: str, folder) -> str:
    """What a page's lines of Python print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(folder):
        exec(code, {})
    return printed.getvalue()


@pytest.fixture
def downloads(tmp_path):
    """The files that docs/conversion.md names, small."""
    tokenizer = train_tokenizer(["a dog barks while it rains"])
    tokenizer.pad_token = None  # as LLaMA-2's
    options = OPTIONS | {"llama": OPTIONS["llama"] | {"vocab_size": len(tokenizer)}, "num_heads": 4}
    options |= {"embed_dim": 64 * 4, "fusion_type": "ot_tempcat_QAV_add", "enc_lora": True, "dec_lora": True}
    state = random_state(options)
    torch.save({"model": trained_parts(state), "epoch": 26}, tmp_path / "checkpoint_best.pth")
    torch.save(ced_file(state), tmp_path / "audiotransformer_base_mAP_4999.pt")
    model = {name: value for name, value in options.items() if name != "llama"}
    model |= {"llama_decoder_path": "./pretrained_weights/Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf"}
    (tmp_path / "config_best.yaml").write_text(yaml.safe_dump({"model": model, "datasets": {"total_frame": 20}}))
    tokenizer.save_pretrained(text_folder(tmp_path / "Llama-2-7b-chat-hf", options, state))
    clip_folder(tmp_path / "clip-vit-large-patch14", width=256)
    write_media(tmp_path / "my_clip.mp4", seconds=1.0)
    return tmp_path


@pytest.fixture
def avcap_downloads(tmp_path, bert_tokenizer):
    """The files that docs/avcap.md and its recipe name, small; what has a name on the Hub lies in a folder of it."""
    sizes = {"width": 24, "words": len(bert_tokenizer), "layers": 1, "text_layers": 1}
    torch.save(random_avcap(frames=8, **sizes), tmp_path / "avcap_audiocaps.pt")
    encoder = below(random_avcap(frames=1, **sizes), "av_encoder.")
    torch.save({f"module.{name}": tensor for name, tensor in encoder.items()}, tmp_path / "cav-mae-scale++.pth")
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    picture = text | {"image_size": 32, "patch_size": 16}
    git = GitForCausalLM(GitConfig(vocab_size=len(bert_tokenizer), vision_config=picture, **text))
    git.save_pretrained(tmp_path / "microsoft" / "git-base")
    for name in ("google-bert/bert-base-uncased", "microsoft/git-base"):
        bert_tokenizer.save_pretrained(tmp_path / name)
    write_media(tmp_path / "my_clip.mp4", seconds=1.0)
    return tmp_path


def test_the_avcap_page_converts_and_captions(avcap_downloads):
    (commands,) = (block for block in blocks("docs/avcap.md", "bash") if "convert_checkpoint.py" in block)
    convert, caption = commands.splitlines()
    assert "written to my_avcap" in run(words_of(convert), avcap_downloads)
    config = json.loads((avcap_downloads / "my_avcap" / "generation_config.json").read_text())
    assert (config["max_length"], config["num_beams"], config["length_norm"]) == (1024, 4, "gnmt")
    path = avcap_downloads / "my_avcap" / "generation_config.json"
    path.write_text(json.dumps(config | {"max_length": 6, "num_beams": 1}))
    # Random weights may well write nothing but special tokens.
    assert "caption" in json.loads(run([*words_of(caption), "--json"], avcap_downloads))


@pytest.mark.slow
def test_the_avcap_page_trains_on_the_pretrained_parts(avcap_downloads, toy_world):
    (command,) = (block for block in blocks("docs/avcap.md", "bash") if "train_hf.py" in block)
    launch, recipe = command.split("train_hf.py")
    assert launch == ".venv/bin/accelerate launch "
    options = "--max_steps 2 --eval_strategy steps --eval_steps 2 --save_strategy no --load_best_model_at_end false"
    options += " --max_train_clips 4 --max_validation_clips 2 --per_device_train_batch_size 2 --num_beams 1"
    options += " --max_new_tokens 2 --dataloader_num_workers 0 --use_cpu true"
    train = ["train_hf.py", str(ROOT / recipe.strip()), "--data_dir", str(toy_world), *options.split()]
    assert "Model and processor are in outputs/avcap" in run(train, avcap_downloads)


def test_the_dali_page_converts_and_captions(tmp_path):
    released, llava, _ = write_dali(tmp_path)
    released.rename(tmp_path / "dali_weights")
    llava.rename(tmp_path / "llava-v1.5-7b")
    write_media(tmp_path / "my_clip.mp4", seconds=1.0)
    (commands,) = (block for block in blocks("docs/dali.md", "bash") if "convert_checkpoint.py" in block)
    convert, caption = commands.splitlines()
    assert "written to my_dali" in run(words_of(convert), tmp_path)
    shorten_captions(tmp_path / "my_dali")
    assert "caption" in json.loads(run([*words_of(caption), "--json"], tmp_path))
    (code,) = blocks("docs/dali.md", "python")
    assert run_code(code, tmp_path).strip()


def shorten_captions(model: Path):
    """To four tokens: random weights end none before the longest that is allowed."""
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_new_tokens": 4, "num_beams": 1}))


def test_the_conversion_page_runs_from_top_to_bottom(downloads):
    commands = [block for block in blocks("docs/conversion.md", "bash") if "convert_checkpoint.py" in block]
    assert len(commands) == 3
    for command in commands:
        words = words_of(command)
        printed = run(words, downloads)
        assert printed.startswith("part ") and f"written to {words[-1]}" in printed
    for model in ("my_lavcap", "my_lavcap_adapter"):
        shorten_captions(downloads / model)
    (code,) = blocks("docs/conversion.md", "python")
    assert run_code(code, downloads).strip()
    for model in ("my_lavcap", "my_lavcap_adapter"):
        assert run(["scripts/caption.py", "my_clip.mp4", "--model", model], downloads).strip()


@pytest.mark.slow
def test_the_readme_assembles_a_model_that_trains_on(downloads, toy_world):
    (code,) = (block for block in blocks("README.md", "python") if "from_parts" in block)
    for name in ("Llama-2-7b-chat-hf", "clip-vit-large-patch14"):
        code = re.sub(rf"[\w-]+/{name}", name, code)
    run_code(code, downloads)
    options = "--model_name_or_path start --output_dir run --max_steps 2 --max_train_clips 4 --max_validation_clips 2"
    options += " --per_device_train_batch_size 2 --eval_strategy steps --eval_steps 2 --max_new_tokens 2 --num_beams 1"
    train = ["train_hf.py", "--data_dir", str(toy_world), *options.split()]
    assert "Model and processor are in run" in run(train, downloads)


@pytest.mark.slow
def test_the_audiocaps_page_rehearses_preparation(tmp_path):
    (commands,) = (block for block in blocks("docs/audiocaps.md", "bash") if "--raw" in block)
    assert "--train_clips 40 " in commands
    commands = commands.replace("--train_clips 40 ", "--train_clips 16 ")  # the rehearsal is of the test clips
    for command in commands.replace("\\\n", " ").splitlines():
        printed = run(words_of(command), tmp_path)
    assert "# test: 5 of 5 clips are in the manifest" in printed


def test_the_audiocaps_page_names_options_that_there_are():
    page = (ROOT / "docs" / "audiocaps.md").read_text(encoding="utf-8")
    script = (ROOT / "lavcap" / "commands" / "prepare.py").read_text(encoding="utf-8")
    commands = [block for block in blocks("docs/audiocaps.md", "bash") if "prepare_audiocaps.py" in block]
    assert len(commands) == 5
    options = {
        option for block in commands for option in re.findall(r"prepare_audiocaps.*", block.replace("\\\n", ""))
    }
    named = set(re.findall(r"--\w+", " ".join(options))) | set(
        re.findall(r"`(--(?:keep|min|win|num|fra|skip)\w*)", page)
    )
    assert len(named) > 10 and all(f'"{option}"' in script for option in named)


def test_the_conversion_page_shows_the_options_that_the_converter_knows():
    from lavcap.conversion.lavcap_options import FUSION_TYPES, MODEL_FIELDS

    page = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    for name, fields in FUSION_TYPES.items():
        row = next(line for line in page.splitlines() if line.startswith("| `") and f"`{name}`" in line)
        transport = fields.get("transport_attention")
        assert f"| `{fields['fusion']}` | `{fields['optimal_transport']}` | `{transport}` |" in row
    assert all(f"`{ours}`" in page for ours in MODEL_FIELDS.values() if ours != "cross_attention_heads")


def test_every_row_of_the_support_tables_names_a_test_that_there_is():
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_captioning_page_has_the_options_and_formats_that_there_are():
    page = (ROOT / "docs" / "captioning.md").read_text(encoding="utf-8")
    parsers = {"caption": caption_parser(), "demo": demo_parser(), "serve": serve_parser()}
    assert all(option_table(parsers[name]) in page for name in ("caption", "demo"))  # … option_tables.py demo
    assert all(f"`{form}`" in page for form in FORMATS)
    named = set(re.findall(r"(--\w+)", page)) - {"--num_processes", "--part", "--space"}  # of others
    assert named <= {option for parser in parsers.values() for option in parser._option_string_actions}


def test_the_captioning_page_runs(saved_model, tmp_path):
    (tmp_path / "my_model").symlink_to(saved_model)
    shorter = ["--max_new_tokens", "2", "--num_beams", "1"]
    for name in ("holiday.mp4", "my_clip.mp4", "films/beach.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_media(tmp_path / name, seconds=0.6)
    commands = [line for block in blocks("docs/captioning.md", "bash") for line in block.splitlines()]
    assert len(commands) == 5 and commands[2].startswith("accelerate launch ")
    assert [command.split()[1] for command in commands[3:]] == ["demo", "serve"]  # see their own tests
    for command in commands[:2]:
        words = command.split()
        assert words[:2] == ["lavcap", "caption"]
        done = run(["scripts/caption.py", *words[2:], *shorter], tmp_path)
    assert done == "" and {path.name for path in (tmp_path / "captions").iterdir()} == {
        ".progress",
        "beach.srt",
        "captions.jsonl",
    }
    (code,) = blocks("docs/captioning.md", "python")
    assert "timestamp" in run_code(code.replace('"my_clip.mp4")', '"my_clip.mp4", max_new_tokens=2)'), tmp_path)


def test_the_support_page_captions_a_conversation(saved_model, tmp_path):
    (code,) = blocks("docs/support.md", "python")
    (tmp_path / "my_lavcap").symlink_to(saved_model)
    write_media(tmp_path / "my_clip.mp4", seconds=0.4)
    assert run_code(code, tmp_path).strip()


def test_the_training_page_shows_the_table_of_trained_parameters():
    recipe = yaml.safe_load((ROOT / "configs" / "lavcap_llama2_7b.yaml").read_text())
    with torch.device("meta"):
        model = LavcapForConditionalGeneration(LavcapConfig(has_vision_tower=False, **recipe["model_config"]))
        table = trainable_table(add_lora(model, recipe["lora"]))
    assert table in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_training_page_s_lora_is_trained_loaded_and_folded_in(saved_model, toy_world, tmp_path):
    """Its commands on the recipe of the toy, whose model and data are small ones here."""
    for name, folder in (("model", saved_model), ("data", toy_world)):
        shutil.copytree(folder, tmp_path / "outputs" / "demo" / name)
    options = "--max_steps 2 --save_steps 2 --eval_strategy no --per_device_train_batch_size 2 --time_mask 8"
    run(["train_hf.py", f"{ROOT}/configs/toy_lora.yaml", *options.split()], tmp_path)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = (block for block in blocks("docs/training.md", "python") if "AutoModel.from_pretrained" in block)
    run_code(code.replace("outputs/lavcap_llama2_7b", "outputs/demo/lora"), tmp_path)
    (command,) = re.findall(r"^\S+python scripts/merge_lora.py .*$", page, re.M)
    command = command.replace("outputs/lavcap_llama2_7b", "outputs/demo/lora")
    assert "its logits differ by at most" in run(words_of(command), tmp_path)
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.fixture
def captions(tmp_path):
    """The files that docs/evaluation.md names: 60 clips, and other captions for most of them."""
    clips = json.loads((ROOT / "tests" / "golden" / "audiocaps_captions.json").read_text(encoding="utf-8"))["clips"]
    annotations = [{"image_id": clip["id"], "caption": text} for clip in clips for text in clip["captions"][2:]]
    (tmp_path / "test_coco.json").write_text(json.dumps({"annotations": annotations}))
    for index, name in enumerate(("mine", "theirs")):
        rows = [
            {"id": clip["id"], "caption": clip["captions"][index], "references": clip["captions"][2:]}
            for clip in clips[: len(clips) - index]
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/evaluation.md", marks=pytest.mark.slow)])
def test_captions_are_scored_as_the_pages_say(page, captions, monkeypatch, toy_world, saved_model):
    monkeypatch.setenv("PATH", "")  # what takes long is Java, which tests of its own run
    for name, folder in (("model", saved_model), ("data", toy_world)):
        shutil.copytree(folder, captions / "outputs" / "demo" / name)
    documentation = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if "scripts/evaluate.py" in line]
    if page == "README.md":
        commands = [command for command in commands if "--predictions" in command]  # the other is that of the page
    assert len(commands) == (2 if page == "README.md" else 4)
    for command in commands:
        words = words_of(command)
        run(words, captions)
        results = json.loads((captions / words[words.index("--output") + 1] / "results.json").read_text())
        assert all(f"`{field}`" in documentation for field in results)
        scores = results["metrics" if "--compare" not in command else "comparison"]
        assert scores["cider_d"] if "mine" in command else "cider_d" in scores  # random weights may share no words


def test_the_evaluation_page_scores_with_evaluate():
    (code,) = blocks("docs/evaluation.md", "python")
    assert "'cider_d': " in run_code(code, ROOT)
