"""The converter: released checkpoints of every variant give the released numbers; anything doubtful writes nothing."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from language_kinds import small_whole
from released_files import ced_file, clip_folder, text_folder, trained_parts
from released_reference import BOS, OPTIONS, PAD, random_inputs, random_state, read_golden, released_state, run
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from conftest import ROOT
from lavcap.conversion.lavcap import convert as convert_checkpoint
from lavcap.conversion.lavcap_options import ReleasedOptions
from lavcap.toy.dataset import train_tokenizer
from modeling_lavcap import LavcapAudioModel, LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor
from weights_captioning import WeightsError


TOLERANCE = 1e-5  # of values of order 1
GOLDEN_RUNS = ("ot_tempcat", "ot_tempcat_qav_add_lora", "tempcat")
WIDE = {"embed_dim": 128, "num_heads": 4, "target_length": 192, "llama": OPTIONS["llama"] | {"hidden_size": 48}}
VARIANTS = {
    "shipped": {"fusion_type": "ot_tempcat_QAV_add", "enc_lora": True, "dec_lora": True},
    "spelling of the Gaudi configuration": {"fusion_type": "ot_loss_temp_cat_QAV_add"},
    "joined in time": {"fusion_type": "ot_tempcat"},
    "joined in channels": {"fusion_type": "ot_chancat"},
    "cross-attention": {"fusion_type": "ot_crossattn", "cross_attn_heads": 4},
    "cross-attention in heads of 64": {"fusion_type": "ot_crossattn", **WIDE},
    "joined in time without transport": {"fusion_type": "tempcat"},
    "joined in channels without transport": {"fusion_type": "chancat_bfQF"},
    "all audio tokens": {"fusion_type": "ot_tempcat_QAV_add", "spec_f_mean": False},
    "all audio tokens in channels": {"fusion_type": "ot_chancat", "spec_f_mean": False},
    "all audio tokens attend": {"fusion_type": "ot_crossattn", "cross_attn_heads": 3, "spec_f_mean": False},
    "normalised tokens": {"fusion_type": "ot_tempcat_QAV_add", "av_embed_norm": True},
    "normalised tokens without transport": {"fusion_type": "tempcat", "av_embed_norm": True, "spec_f_mean": False},
    "plan in the loss": {"fusion_type": "ot_tempcat_QAV_add", "use_exp_Q": True},
    "half the loss": {"fusion_type": "ot_crossattn", "cross_attn_heads": 1, "ot_loss_weight": 0.5},
    "few iterations": {"fusion_type": "ot_tempcat_QAV_add", "num_sinkhorn_iter": 3, "sinkhorn_epsilon": 0.5},
    "no loss": {"fusion_type": "tempcat", "ot_loss_weight": 0.0},
    "LoRA of the encoder": {"fusion_type": "ot_tempcat", "enc_lora": True, "lora_rank": 4, "lora_alpha": 6},
    "LoRA of the language model": {"fusion_type": "ot_chancat", "dec_lora": True, "lora_alpha": 16},
    "other language model": {
        "fusion_type": "ot_tempcat_QAV_add",
        "dec_lora": True,
        "llama": OPTIONS["llama"] | {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 500.0},
    },
    "other sizes": {"fusion_type": "ot_tempcat_QAV_add", "melbins": 32, "depth": 3, **WIDE},
}


def convert(folder, options: dict | None, state: dict, *arguments: object, name: str = "checkpoint.pth"):
    """Run the command on a checkpoint file; the converted model."""
    arguments = [*command(folder, options, state, name), *arguments]
    output = folder / "converted"
    run_command(*arguments, "--output", output)
    return LavcapForConditionalGeneration.from_pretrained(output)


def command(folder, options: dict | None, state: dict, name: str = "checkpoint.pth") -> list[object]:
    folder.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    elif name.endswith(".pth"):
        torch.save({"model": state, "epoch": 3, "optimizer": {"state": {}}, "scaler": None}, folder / name)
    else:
        torch.save(state, folder / name)
    if options is None:
        return ["--checkpoint", folder / name]
    (folder / "config.json").write_text(json.dumps(options))
    return ["--checkpoint", folder / name, "--config", folder / "config.json"]


def run_command(*arguments: object):
    script = str(ROOT / "scripts" / "convert_checkpoint.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as finish:
            runpy.run_path(script, run_name="__main__")
    assert finish.value.code == 0


def refuse(capsys, *arguments: object) -> str:
    """Run the command on bad input; its one message on standard error."""
    script = str(ROOT / "scripts" / "convert_checkpoint.py")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as finish:
            runpy.run_path(script, run_name="__main__")
    assert finish.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


def prompt_of(model, inputs: dict) -> dict[str, torch.Tensor]:
    """BOS, prompt, placeholders, prompt: the model's inputs for those of a golden file."""
    with torch.no_grad():
        clips = model.get_soft_tokens(inputs["in.spec"], video_features=inputs["in.clip_feat"])
    soft = torch.full((clips.soft_tokens.shape[1],), model.config.av_token_id)
    row = torch.cat([torch.tensor([BOS]), inputs["in.before_ids"], soft, inputs["in.after_ids"]])
    input_ids = row.expand(len(inputs["in.spec"]), -1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "input_features": inputs["in.spec"],
        "video_features": inputs["in.clip_feat"],
    }


@torch.no_grad()
def outputs_of(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that a golden file holds under `out.`, from a converted model."""
    prompt = prompt_of(model, inputs)
    clips = model.get_soft_tokens(inputs["in.spec"], video_features=inputs["in.clip_feat"])
    ids, mask, asked = inputs["in.labels"], inputs["in.labels_attention_mask"], prompt["input_ids"]
    answered = prompt | {
        "input_ids": torch.cat([asked, ids], dim=1),
        "attention_mask": torch.cat([prompt["attention_mask"], mask], dim=1),
        "labels": torch.cat([torch.full_like(asked, -100), ids.masked_fill(mask == 0, -100)], dim=1),
    }
    outputs = {
        "out.audio_hidden": model.get_audio_features(inputs["in.spec"]).pooler_output,
        "out.av_embeds": clips.soft_tokens,
        "out.ot_loss": torch.tensor(0.0) if clips.alignment_loss is None else clips.alignment_loss,
        "out.loss": model(**answered).loss,
        "out.prompt_logits": model(**prompt).logits,
    }
    for name, beams in (("greedy", 1), ("beam4", 4)):
        new = model.generate(**prompt, max_new_tokens=12, num_beams=beams, pad_token_id=PAD)[:, asked.shape[1] :]
        outputs[f"out.{name}"] = torch.nn.functional.pad(new, (0, 12 - new.shape[1]), value=PAD)
    return outputs


def assert_same(outputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = TOLERANCE):
    for name, found in outputs.items():
        if found.dtype == torch.long:
            assert found.tolist() == expected[name].tolist(), name
            continue
        scale = max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(
            found, expected[name], atol=tolerance * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


# ------------------------------------------------------------------------------------------------ released numbers


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_golden_vectors_come_out_of_the_converted_checkpoint(name, tmp_path):
    options, tensors = read_golden(name)
    model = convert(tmp_path, options, released_state(tensors))
    assert_same(outputs_of(model, tensors), tensors)


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_the_written_out_equations_give_the_golden_vectors(name):
    options, tensors = read_golden(name)
    assert_same(run(options, released_state(tensors), tensors), tensors, tolerance=5e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_numbers_of_its_equations(name, tmp_path):
    options = OPTIONS | VARIANTS[name]
    state, inputs = random_state(options), random_inputs(options)
    model = convert(tmp_path, options, state)
    assert_same(outputs_of(model, inputs), run(options, state, inputs))


def test_a_learnt_scale_beyond_its_limit_is_clamped(tmp_path):
    options = OPTIONS | {"fusion_type": "ot_tempcat"}
    inputs, state = random_inputs(options), random_state(options) | {"logit_scale": torch.tensor(7.0)}
    outputs = outputs_of(convert(tmp_path, options, state), inputs)
    assert_same(outputs, run(options, state | {"logit_scale": torch.tensor(4.6052)}, inputs))


def test_a_quiet_encoder_shows_the_epsilon_of_its_layer_norms(tmp_path):
    options = OPTIONS | {"fusion_type": "ot_tempcat"}
    state = random_state(options)
    for key in state:  # a variance of about 1e-6, the epsilon, at the first LayerNorm
        state[key] = 1e-3 * state[key] if "patch_embed" in key or "pos_embed" in key else state[key]
    inputs = random_inputs(options)
    assert_same(outputs_of(convert(tmp_path, options, state), inputs), run(options, state, inputs))


@pytest.mark.parametrize("loudness", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("name", ["ot_tempcat", "ot_tempcat_qav_add_lora"])
@torch.no_grad()
def test_bfloat16_weights_keep_plan_and_loss_within_a_hundredth(name, loudness, golden_models):
    _, tensors = read_golden(name)
    exact, half = golden_models[name]
    video = loudness * tensors["in.clip_feat"]
    expected = exact.get_soft_tokens(tensors["in.spec"], video_features=video)
    found = half.get_soft_tokens(tensors["in.spec"], video_features=video.bfloat16())
    assert found.soft_tokens.dtype == torch.bfloat16 and found.transport_plan.dtype == torch.float32
    torch.testing.assert_close(found.transport_plan, expected.transport_plan, rtol=1e-2, atol=0)
    torch.testing.assert_close(found.alignment_loss, expected.alignment_loss, rtol=1e-2, atol=0)


@pytest.mark.parametrize("spec", [1.003, -2.7, 0.0], ids=["padding", "silence", "mean"])
@torch.no_grad()
def test_bfloat16_weights_bear_silence_and_equal_frames(spec, golden_models):
    _, tensors = read_golden("ot_tempcat")
    exact, half = golden_models["ot_tempcat"]
    silence = torch.full_like(tensors["in.spec"], spec)
    equal = tensors["in.clip_feat"][:, :1].expand_as(tensors["in.clip_feat"])
    for sound, video in ((silence, tensors["in.clip_feat"]), (tensors["in.spec"], equal), (silence, equal)):
        expected = exact.get_soft_tokens(sound, video_features=video)
        found = half.get_soft_tokens(sound, video_features=video.bfloat16())
        assert found.alignment_loss.isfinite() and found.soft_tokens.isfinite().all()
        torch.testing.assert_close(found.transport_plan, expected.transport_plan, rtol=1e-2, atol=0)
        torch.testing.assert_close(found.alignment_loss, expected.alignment_loss, rtol=1e-2, atol=0)


@pytest.fixture(scope="module")
def golden_models(tmp_path_factory):
    """Converted golden checkpoints in float32 and in bfloat16."""
    models = {}
    for name in GOLDEN_RUNS[:2]:
        folder = tmp_path_factory.mktemp("golden")
        options, tensors = read_golden(name)
        exact = convert(folder, options, released_state(tensors))
        half = LavcapForConditionalGeneration.from_pretrained(folder / "converted", dtype=torch.bfloat16)
        models[name] = exact, half
    return models


def test_an_adapter_beside_the_base_gives_the_logits_of_the_merged_model(tmp_path):
    options, tensors = read_golden("ot_tempcat_qav_add_lora")
    adapted = convert(tmp_path, options, released_state(tensors), "--lora", "adapter")
    assert adapted.active_adapters() == ["default"]
    outputs = outputs_of(adapted, tensors)
    assert_same(outputs, tensors, tolerance=1e-4)
    adapted.disable_adapters()
    with torch.no_grad():
        assert (adapted(**prompt_of(adapted, tensors)).logits - outputs["out.prompt_logits"]).abs().max() > 1e-2


def test_adapters_of_unequal_rank_and_scale_keep_their_own(tmp_path):
    options = OPTIONS | {"fusion_type": "ot_tempcat_QAV_add", "enc_lora": True, "dec_lora": True}
    state = random_state(options)
    for key in [key for key in state if key.startswith("audio_encoder") and "lora_" in key]:
        state[key] = state[key][:4] if "lora_A" in key else state[key][:, :4].contiguous()
    options = {key: value for key, value in options.items() if key not in ("lora_rank", "lora_alpha")}
    options |= {"enc_lora_rank": 4, "enc_lora_alpha": 10, "dec_lora_rank": 8, "dec_lora_alpha": 32}
    inputs = random_inputs(options)
    merged = outputs_of(convert(tmp_path / "merged", options, state), inputs)
    adapted = outputs_of(convert(tmp_path / "adapter", options, state, "--lora", "adapter"), inputs)
    assert_same(adapted, merged, tolerance=1e-4)
    encoder_only = {key: value for key, value in state.items() if key.startswith("audio_encoder")}
    alone = run(OPTIONS | options | {"lora_rank": 4, "lora_alpha": 10}, state | encoder_only, inputs)
    torch.testing.assert_close(merged["out.audio_hidden"], alone["out.audio_hidden"], atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------- where parts are


@pytest.fixture(scope="module")
def shipped():
    options = OPTIONS | {"fusion_type": "ot_tempcat_QAV_add", "enc_lora": True, "dec_lora": True}
    state, inputs = random_state(options), random_inputs(options)
    return options, state, inputs, run(options, state, inputs)


@pytest.mark.parametrize("name", ["checkpoint.pth", "pytorch_model.bin", "model.safetensors"])
def test_every_container_gives_the_same_model(name, shipped, tmp_path):
    options, state, inputs, expected = shipped
    assert_same(outputs_of(convert(tmp_path, options, state, name=name), inputs), expected)


def test_a_half_precision_base_becomes_the_wanted_dtype(shipped, tmp_path):
    options, state, _, _ = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    folder = text_folder(tmp_path / "llama", options, state)
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    arguments = ["--audio-encoder", tmp_path / "ced.pt", "--text-model", folder]
    for given, expected in ((["--dtype", "float32"], torch.float32), ([], torch.float16)):
        model = convert(tmp_path / str(expected), options, trained_parts(state), *arguments, *given)
        assert {tensor.dtype for tensor in model.parameters() if tensor.numel() > 64} == {expected}
    assembled = LavcapForConditionalGeneration.from_parts(
        text=folder, audio=tmp_path / "ced.pt", audio_config={"num_attention_heads": 12}, dtype=torch.float32
    )
    assembled.save_pretrained(tmp_path / "assembled")
    assert LavcapForConditionalGeneration.from_pretrained(tmp_path / "assembled").language_model.dtype == torch.float32


def test_trained_parts_are_completed_from_ced_and_the_base(shipped, tmp_path, capsys):
    options, state, inputs, expected = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    parts = ["--audio-encoder", tmp_path / "ced.pt", "--text-model", text_folder(tmp_path / "llama", options, state)]
    model = convert(tmp_path / "run", options, trained_parts(state), *parts)
    assert_same(outputs_of(model, inputs), expected)
    table = capsys.readouterr().out
    assert "checkpoint (3), ced.pt (40); LoRA of 4 layers folded in, scale 4" in table
    assert "llama (21); LoRA of 4 layers folded in" in table
    assert "CED's tagging head" in table and "CED's own filter bank" in table
    assert model.config.text_model_name == "llama"
    assert (model.config.text_model_vocab_size, model.config.text_model_hidden_size) == (120, 32)


def test_the_base_may_be_a_part_of_a_larger_model(shipped, tmp_path):
    options, state, inputs, expected = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    base = LlamaForCausalLM.from_pretrained(text_folder(tmp_path / "llama", options, state))
    whole = LlavaForConditionalGeneration(LlavaConfig(**small_whole("llava") | {"text_config": base.config}))
    whole.model.language_model, whole.lm_head = base.model, base.lm_head
    whole.save_pretrained(tmp_path / "llava")
    parts = ["--audio-encoder", tmp_path / "ced.pt", "--text-model", tmp_path / "llava"]
    model = convert(tmp_path / "run", options | {"llama": None}, trained_parts(state), *parts)
    assert_same(outputs_of(model, inputs), expected)


def test_statistics_of_the_checkpoint_come_before_those_of_ced(shipped, tmp_path):
    options, state, inputs, expected = shipped
    ced = ced_file(state)
    ced["init_bn.1.running_mean"] = ced["init_bn.1.running_mean"] + 1  # training moves them on
    torch.save(ced, tmp_path / "ced.pt")
    full = {key: value for key, value in state.items() if not key.startswith("audio_encoder")}
    model = convert(tmp_path / "run", options, full | trained_parts(state), "--audio-encoder", tmp_path / "ced.pt")
    assert_same(outputs_of(model, inputs), expected)


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_the_placeholder_comes_after_the_vocabulary_and_pad(with_tokenizer, shipped, tmp_path, capsys):
    """32,000 rows of the base, `[PAD]`, and no row for the placeholder, in small."""
    options, state, inputs, _ = shipped
    options = options | {"llama": None}
    tokenizer = train_tokenizer(["a dog barks while it rains"])
    rows = len(tokenizer)
    sizes = OPTIONS["llama"] | {"vocab_size": rows}
    base = LlamaForCausalLM(LlamaConfig(**sizes))
    base.save_pretrained(tmp_path / "llama")
    trained = {key: value for key, value in state.items() if not key.startswith("llama_decoder") or "lora_" in key}
    if with_tokenizer:
        tokenizer.save_pretrained(tmp_path / "llama")
    model = convert(
        tmp_path / "run",
        options,
        trained,
        "--text-model",
        tmp_path / "llama",
        "--vision-model",
        clip_folder(tmp_path / "clip"),
    )
    expected = rows + with_tokenizer
    assert model.config.text_config.vocab_size == model.config.av_token_id == expected
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == expected
    assert model.config.text_model_vocab_size == rows
    if not with_tokenizer:
        assert "no processor" in capsys.readouterr().out
        return
    processor = LavcapProcessor.from_pretrained(tmp_path / "run" / "converted")
    assert processor.tokenizer.convert_tokens_to_ids("<av>") == model.config.av_token_id
    assert "<av>" in processor.tokenizer.all_special_tokens
    assert processor.tokenizer.pad_token == "[PAD]" and processor.tokenizer.pad_token_id == model.config.pad_token_id
    ids = model.generate(**{name: value[:1] for name, value in prompt_of(model, inputs).items()}, do_sample=True)
    assert (ids[:, prompt_of(model, inputs)["input_ids"].shape[1] :] < model.config.av_token_id).all()


def test_a_window_of_another_length_cuts_or_interpolates_the_time_positions(shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    parts = ["--audio-encoder", tmp_path / "ced.pt", "--text-model", text_folder(tmp_path / "llama", options, state)]
    table = ced_file(state)["time_pos_embed"]
    for frames, patches in ((96, 6), (160, 10)):
        model = convert(tmp_path / str(frames), options | {"target_length": frames}, trained_parts(state), *parts)
        found = model.audio_tower.time_pos_embed[0, :, 0].detach().numpy()
        if patches < 8:
            np.testing.assert_array_equal(found, table[0, :, 0, :patches].numpy())
        else:  # linear between the centres of equal cells, the ends held
            centres = (np.arange(patches) + 0.5) * 8 / patches - 0.5
            for channel in range(len(found)):
                expected = np.interp(centres, np.arange(8), table[0, channel, 0].numpy())
                np.testing.assert_allclose(found[channel], expected, atol=1e-6)
    printed = capsys.readouterr().out
    assert "time positions cut from 8 to 6" in printed and "time positions interpolated from 8 to 10" in printed


def test_ced_alone_becomes_an_audio_tower(shipped, tmp_path):
    options, state, inputs, _ = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    tower = LavcapAudioModel.from_ced(tmp_path / "ced.pt", max_frames=128, num_attention_heads=12)
    with torch.no_grad():
        plain = {key: value for key, value in state.items() if "lora_" not in key}
        expected = run(options, plain, inputs)["out.audio_hidden"]
        torch.testing.assert_close(tower(inputs["in.spec"]).last_hidden_state, expected, atol=1e-5, rtol=0)
    torch.save(ced_file(random_state(OPTIONS | WIDE | {"fusion_type": "tempcat"})), tmp_path / "wide.pt")
    run_command("--checkpoint", tmp_path / "wide.pt", "--output", tmp_path / "tower")
    converted = LavcapAudioModel.from_pretrained(tmp_path / "tower")
    assert (converted.config.hidden_size, converted.config.num_attention_heads) == (128, 2)
    assert converted.time_pos_embed.shape[-1] == 64


def test_ced_takes_heads_and_window_from_a_configuration(shipped, tmp_path):
    options, state, _, _ = shipped
    run_command(*command(tmp_path, options, ced_file(state), "ced.pt"), "--output", tmp_path / "tower")
    tower = AutoModel.from_pretrained(tmp_path / "tower")
    assert isinstance(tower, LavcapAudioModel)
    assert (tower.config.num_attention_heads, tower.config.max_frames) == (12, 128)


def test_buffers_of_older_versions_and_of_parallel_training_do_not_matter(shipped, tmp_path):
    options, state, inputs, expected = shipped
    old = {f"module.{key}": value for key, value in state.items()}
    old["module.llama_decoder.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    assert_same(outputs_of(convert(tmp_path, options, old), inputs), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_are_written_in_the_wanted_dtype(dtype, shipped, tmp_path):
    options, state, inputs, expected = shipped
    state = {key: value.half() if key.startswith("llama") and value.ndim else value for key, value in state.items()}
    given = ["--dtype", "bfloat16"] if dtype == "bfloat16" else ["--dtype", dtype]
    model = convert(tmp_path, options, state, *given)
    assert model.language_model.dtype == getattr(torch, dtype)
    assert model.audio_tower.batch_norm.running_var.dtype == model.fusion.logit_scale.dtype == torch.float32
    if dtype == "float32":
        assert_same(outputs_of(model, inputs), expected, tolerance=5e-3)
    assert convert(tmp_path / "auto", options, state).dtype == torch.float16


def test_the_released_yaml_brings_its_prompt_and_decoding(shipped, tmp_path):
    options = shipped[0] | {"llama": OPTIONS["llama"] | {"vocab_size": 320}}
    state = random_state(options)
    content = {
        "model": {key: value for key, value in options.items() if key != "llama"}
        | {
            "encoder_path": "./ced.pt",
            "freeze_enc": True,
            "llama_decoder_path": "./pretrained_weights/llama-2-7b-chat-hf",
            "ckpt": None,
            "prompt_template": "HUMAN: {}\nMACHINE:",
            "end_sym": "</s>",
        },
        "datasets": {"total_frame": 5},
        "run": {"seed": 42},
        "generate": {"num_beams": 3, "max_new_tokens": 50, "do_sample": False, "top_p": 0.9},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    folder = text_folder(tmp_path / "llama", options, state)
    train_tokenizer(["rain"]).save_pretrained(folder)
    arguments = ["--checkpoint", tmp_path / "checkpoint.pth", "--config", tmp_path / "config.yaml"]
    run_command(
        *arguments,
        "--text-model",
        folder,
        "--vision-model",
        clip_folder(tmp_path / "clip"),
        "--output",
        tmp_path / "out",
    )
    model = LavcapForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = LavcapProcessor.from_pretrained(tmp_path / "out")
    assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (3, 50)
    assert model.config.num_video_frames == processor.num_video_frames == 5
    assert processor.prompt == "HUMAN: <Speech>{av}</Speech> {instruction}\nMACHINE:"
    inputs = processor(audio=np.ones(16000, np.float32), videos=np.zeros((5, 16, 16, 3), np.uint8))
    assert (inputs["input_ids"] == model.config.av_token_id).sum() == 8 + 5
    assert len(processor.decode_captions(model.generate(**inputs, max_new_tokens=4), inputs)) == 1


# ------------------------------------------------------------------------------------------------------- refusals


def without(state: dict, part: str) -> dict:
    return {key: value for key, value in state.items() if part not in key}


def spoilt(state: dict, part: str, change) -> dict:
    return {key: change(value) if part in key else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("changes", "spoil", "message"),
    [
        ({}, lambda s: s | {"audio_encoder.cls_token": torch.ones(1)}, "1 without a place in the model:\n  audio_enc"),
        ({}, lambda s: s | {"speech_Qformer.x": torch.ones(1)}, "without a place in the model:\n  speech_Qformer.x"),
        ({}, lambda s: without(s, "blocks.1.norm2"), "2 filled by nothing:\n  audio_tower.layers.1.layer_norm2"),
        ({}, lambda s: without(s, "blocks.1.norm2"), "lacks of the audio_tower comes from --audio-encoder"),
        ({}, lambda s: without(s, "model.norm.weight"), "lacks of the language_model comes from --text-model"),
        ({}, lambda s: without(s, "logit_scale"), "1 filled by nothing:\n  fusion.logit_scale"),
        ({}, lambda s: without(s, "running_mean"), "filled by nothing:\n  audio_tower.batch_norm.running_mean"),
        ({}, lambda s: without(s, "blocks.0.attn.q_proj.lora_A"), "half a LoRA"),
        ({}, lambda s: without(s, "blocks.0.attn.q_proj.base"), "Got a LoRA of audio_tower.layers.0.self_attn.q_proj"),
        ({}, lambda s: s | {f"logit_scale.lora_{x}.default.weight": torch.ones(8, 8) for x in "AB"}, "got a LoRA"),
        ({"enc_lora": False}, dict, "LoRA of the audio_tower off, but the checkpoint holds one"),
        ({}, lambda s: {k: s[k] for k in s if "llama" not in k or "lora" not in k}, "but the checkpoint holds none"),
        ({"lora_rank": 4}, dict, "LoRA of the audio_tower: expected rank 4 as configured, got 8"),
        ({"av_embed_norm": True}, dict, "4 filled by nothing:\n  fusion.audio_layer_norm.weight"),
        ({"fusion_type": "ot_crossattn"}, dict, "filled by nothing:\n  fusion.cross_attention"),
        ({"fusion_type": "ot_chancat"}, dict, r"multi_modal_projector.weight: expected \(32, 96\), got \(32, 48\)"),
        ({"depth": 3}, dict, "16 filled by nothing:\n  audio_tower.layers.2"),
        ({"melbins": 80}, dict, r"audio_tower.batch_norm.weight: expected \(80,\), got \(64,\)"),
        ({}, lambda s: s | {"logit_scale": torch.tensor(torch.nan)}, "logit_scale: NaN or infinite values"),
        ({}, lambda s: s | {"audio_encoder.norm.weight": torch.ones(48)}, "are the same tensor of the model"),
        ({"fusion_type": "tempcat_bfQF"}, dict, "fusion_type is 'tempcat_bfQF', expected one of ot_tempcat_QAV_add, "),
        ({"use_speech_Qformer": True}, dict, "the variants with a Q-Former are not ported"),
        ({"spec_mean": True}, dict, "'spec_mean' is not an option of the released LAVCap; did you mean spec_f_mean"),
        ({"spec_f_mean": "no"}, dict, "spec_f_mean is 'no', expected true or false"),
        ({"num_sinkhorn_iter": 2.5}, dict, "num_sinkhorn_iter is 2.5, expected a whole number"),
        ({"vis_embed_dim": 512}, dict, "vis_embed_dim is 512 and embed_dim 48, expected equal widths"),
        ({}, lambda s: spoilt(s, "0.attn.q_proj.lora_A", lambda t: t * torch.nan), "lora_A.default.weight: NaN"),
        ({}, lambda s: spoilt(s, "0.attn.q_proj.lora_B", lambda t: t[:, :5]), "expected rank 8 as configured"),
        ({}, lambda s: spoilt(s, "0.attn.q_proj.lora_B", lambda t: t[0]), r"expected a matrix, got shape \(8,\)"),
        ({}, lambda s: s | {f"module.{k}": v for k, v in s.items() if "lora_A" in k}, "a second lora_A of"),
        ({}, lambda s: spoilt(s, "speech_llama_proj.bias", lambda t: t.to(torch.complex64)), "got torch.complex64"),
        ({}, lambda s: spoilt(s, "speech_llama_proj.bias", lambda t: t.int()), "expected dense floating point, got"),
        ({"enc_lora": "False"}, dict, "enc_lora is 'False', expected true or false"),
        ({"target_length": 0}, dict, "target_length is 0, expected a whole number"),
        ({"sinkhorn_epsilon": float("inf")}, dict, "sinkhorn_epsilon is inf, expected a number"),
        ({"total_frame": 0}, dict, "total_frame is 0, expected a whole number of at least 1"),
        ({"prompt_template": "hi"}, dict, "prompt_template is 'hi', expected one {} in it"),
        ({"llama": [1]}, dict, r"llama is \[1\], expected an object of options"),
        ({"generate": {"num_beams": "four"}}, dict, "num_beams is 'four', expected a whole number"),
        ({"lora_alpha": "x"}, dict, "lora_alpha is 'x', expected a whole number"),
        ({"llama": None}, dict, "neither --text-model nor `llama`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_written(changes, spoil, message, shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    arguments = command(tmp_path, options | changes, spoil(state))
    before = sorted(tmp_path.iterdir())
    assert re.search(message, refuse(capsys, *arguments, "--output", tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_another_language_model_is_refused_with_both_sizes(shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    other = LlamaForCausalLM(LlamaConfig(**(options["llama"] | {"hidden_size": 64})))
    other.save_pretrained(tmp_path / "wide")
    arguments = command(tmp_path, options | {"enc_lora": None, "dec_lora": None}, without(state, "llama_decoder"))
    message = refuse(capsys, *arguments, "--text-model", tmp_path / "wide", "--output", tmp_path / "out")
    assert "multi_modal_projector.weight: expected (64, 48), got (32, 48)" in message
    arguments = command(tmp_path, options, trained_parts(state))
    torch.save(ced_file(state), tmp_path / "ced.pt")
    arguments += ["--audio-encoder", tmp_path / "ced.pt", "--text-model", tmp_path / "wide"]
    message = refuse(capsys, *arguments, "--output", tmp_path / "out")
    assert "expected (32, 32) as it was trained on, got (64, 64) of the base" in message


def test_a_base_without_weights_is_enough_only_for_a_whole_checkpoint(shipped, tmp_path, capsys):
    options, state, inputs, expected = shipped
    LlamaConfig(**options["llama"]).save_pretrained(tmp_path / "llama")
    model = convert(tmp_path / "whole", options | {"llama": None}, state, "--text-model", tmp_path / "llama")
    assert_same(outputs_of(model, inputs), expected)
    arguments = command(tmp_path / "part", options, without(state, "model.norm.weight"))
    message = refuse(capsys, *arguments, "--text-model", tmp_path / "llama", "--output", tmp_path / "out")
    assert "lacks 1 tensors of the language model (language_model.model.norm.weight)" in message
    assert not (tmp_path / "out").exists()


def test_parts_that_lack_weights_are_not_made_up(shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    torch.save(ced_file(state), tmp_path / "ced.pt")
    folder = Path(text_folder(tmp_path / "llama", options, state))
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    arguments = [*command(tmp_path, options, trained_parts(state)), "--audio-encoder", tmp_path / "ced.pt"]
    message = refuse(capsys, *arguments, "--text-model", folder, "--output", tmp_path / "out")
    assert "llama: lacks 9 tensors (model.layers.1." in message
    clip = Path(clip_folder(tmp_path / "clip"))
    weights = load_file(clip / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, clip / "model.safetensors", metadata={"format": "pt"})
    message = refuse(capsys, *command(tmp_path, options, state), "--vision-model", clip, "--output", tmp_path / "out")
    assert "clip: lacks 1 tensors (visual_projection.weight)" in message
    whole = text_folder(tmp_path / "whole", options, state)
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        LavcapForConditionalGeneration.from_parts(text=whole, vision=clip, fusion="video_only")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text-model", "clip"], "--text-model .*clip: a clip_vision_model model, expected a language model"),
        (["--vision-model", "llama"], "--vision-model .*llama: a llama model, expected CLIP"),
        (
            ["--checkpoint", "ced.pt", "--audio-encoder", "checkpoint.pth"],
            "CED's own file, which takes --config and",
        ),
        (["--config", "checkpoint.pth"], "checkpoint.pth: neither YAML nor JSON"),
        (["--checkpoint", "config.json"], "config.json: "),
        (["--text-model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_swapped_and_missing_files_are_named(options, message, shipped, tmp_path, capsys, monkeypatch):
    settings, state, _, _ = shipped
    arguments = command(tmp_path, settings, state)
    torch.save(ced_file(state), tmp_path / "ced.pt")
    text_folder(tmp_path / "llama", settings, state)
    clip_folder(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refuse(capsys, *arguments, *options, "--output", "out"))
    assert not (tmp_path / "out").exists()


def test_released_defaults_that_a_configuration_leaves_out_are_told(shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    silent = {name: value for name, value in options.items() if name not in ("spec_f_mean", "ot_loss_weight")}
    model = convert(tmp_path, silent, state)
    assert model.config.frequency_mean is False and model.config.alignment_loss_weight == 0.1
    assert "released defaults hold: spec_f_mean False, ot_loss_weight 0.1" in capsys.readouterr().out


def test_numbers_that_yaml_takes_for_words_are_numbers(shipped, tmp_path):
    options, state, inputs, expected = shipped
    torch.save(state, tmp_path / "c.bin")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": options}).replace("1.0e-05", "1e-05"))
    assert "1e-05" in (tmp_path / "c.yaml").read_text()
    arguments = ["--checkpoint", tmp_path / "c.bin", "--config", tmp_path / "c.yaml"]
    run_command(*arguments, "--output", tmp_path / "out")
    assert_same(outputs_of(LavcapForConditionalGeneration.from_pretrained(tmp_path / "out"), inputs), expected)


def test_an_adapter_is_saved_with_the_folder_of_its_base(shipped, tmp_path, monkeypatch):
    options, state, inputs, expected = shipped
    arguments = command(tmp_path, options, state)
    monkeypatch.chdir(tmp_path)
    run_command(*arguments, "--lora", "adapter", "--output", "made_here")
    (tmp_path / "made_here").rename(tmp_path / "moved")
    model = LavcapForConditionalGeneration.from_pretrained(tmp_path / "moved")
    model.save_pretrained(tmp_path / "adapter only")
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path / "adapter only")
    assert_same(outputs_of(again, inputs), expected, tolerance=1e-4)


def test_an_existing_folder_stays_as_it_was(shipped, tmp_path, capsys):
    options, state, _, _ = shipped
    output = tmp_path / "mine"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert "mine: holds another run" in refuse(capsys, *command(tmp_path, options, state), "--output", output)
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    run_command(*command(tmp_path, options, state), "--output", empty)
    assert (empty / "model.safetensors").is_file()


def test_a_failure_while_writing_leaves_nothing(shipped, tmp_path, monkeypatch):
    options, state, _, _ = shipped
    arguments = command(tmp_path, options, state)
    before = sorted(tmp_path.iterdir())

    def fail(self, folder, **_):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(LavcapForConditionalGeneration, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(arguments[1], ReleasedOptions.read(arguments[3]), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
