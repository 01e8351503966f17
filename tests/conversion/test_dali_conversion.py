"""The released files of DALI give the released numbers, through the converter and Auto classes."""

import json
import re

import pytest
import torch
from avcap_golden import below
from dali_golden import FILES, read_golden, write_alignment, write_released
from safetensors.torch import load_file, save_file
from stranger import run_inside
from transformers import (
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from cavmae_weights_captioning import cavmae_weights
from lavcap.conversion.dali_names import split_backbone
from modeling_dali import DaliForAlignment


def run_converter(*options: object):
    return run_inside("scripts/convert_checkpoint.py", *options)


def convert(folder, *kept: str, **others: object):
    released, llava, config = write_released(folder, *kept)
    done = run_converter(
        "--checkpoint", released, "--llava", llava, "--config", config, "--output", folder / "out"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("dali"))[0]


@pytest.fixture(scope="module")
def golden():
    return read_golden("llava_audio")


def released_model(converted, **options):
    return AutoModelForMultimodalLM.from_pretrained(converted, audio_projector="image", **options)


def clips(tensors, *kinds: str) -> dict[str, torch.Tensor]:
    inputs = {"audio": ("input_features", tensors["in.fbank"])}
    inputs["video"] = ("pixel_values_videos", tensors["in.pixel_values"][:, None])
    return dict(inputs[kind] for kind in kinds or inputs)


def with_placeholders(model, ids: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """Released ids, whose one -200 becomes as many placeholders; and where that stood."""
    place = int((ids[0] == -200).nonzero())
    assert (ids[:, place] == -200).all()
    middle = torch.full((len(ids), count), model.config.av_token_id)
    return torch.cat([ids[:, :place], middle, ids[:, place + 1 :]], dim=1), place


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_of_both_encoders_are_the_released_ones(converted, golden, attention):
    tensors, _ = golden
    model = released_model(converted, attn_implementation=attention)
    with torch.no_grad():
        audio = model.get_audio_features(tensors["in.fbank"]).pooler_output
        image = model.get_video_features(tensors["in.pixel_values"][:, None]).pooler_output
        audio_embeds, image_embeds = model.multi_modal_projector(audio), model.multi_modal_projector(image)
    for name, found in {"audio_tokens": audio, "image_tokens": image, "audio_embeds": audio_embeds,
                        "image_embeds": image_embeds}.items():  # fmt: skip
        torch.testing.assert_close(found, tensors[f"out.{name}"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["off", "on"])
def test_logits_loss_and_captions_are_the_released_ones(converted, golden, prefix):
    tensors, _ = golden
    model = released_model(converted, use_prefix=prefix == "on")
    expected = below(tensors, f"out.prefix_{prefix}.")
    count = 48 + 16 * (prefix == "on")
    ids, place = with_placeholders(model, tensors["in.train.input_ids"], count)
    mask, labels = expected["train.attention_mask"], expected["train.labels"]
    with torch.no_grad():
        output = model(ids, attention_mask=mask, labels=labels, **clips(tensors, "audio"))
    real = mask.bool()
    torch.testing.assert_close(output.logits[real], expected["train.logits"][real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected["train.loss"], atol=1e-5, rtol=0)
    prompt, _ = with_placeholders(model, tensors["in.prompt.input_ids"], count)
    clip = {name: each[:1] for name, each in clips(tensors, "audio").items()}
    with torch.no_grad():
        torch.testing.assert_close(model(prompt, **clip).logits, expected["prompt.logits"], atol=1e-5, rtol=1e-5)
    greedy = model.generate(prompt, **clip, do_sample=False, max_new_tokens=8, min_new_tokens=8)
    assert greedy[:, prompt.shape[1] :].tolist() == expected["prompt.greedy"].tolist()


def test_the_audio_projector_is_that_of_distillation(converted, golden):
    tensors, _ = golden
    model = AutoModelForMultimodalLM.from_pretrained(converted)
    ids, _ = with_placeholders(model, tensors["in.prompt.input_ids"], 48)
    with torch.no_grad():
        logits = model(ids, input_features=tensors["in.fbank"][:1]).logits
    torch.testing.assert_close(logits, tensors["out.use_mlp.prompt.logits"], atol=1e-5, rtol=1e-5)


def test_the_processor_writes_both_prompts_as_released(converted, golden):
    tensors, options = golden
    processor = AutoProcessor.from_pretrained(converted)
    captions = [text.split("ASSISTANT: ")[1].removesuffix("</s>") for text in options["train_text"]]
    written = processor.encode_text([48, 48], captions=captions)
    expected = below(tensors, "out.prefix_off.train.")
    mask = expected["attention_mask"]
    assert torch.equal(written["attention_mask"], mask)
    assert torch.equal(written["labels"].masked_fill(mask == 0, -100), expected["labels"])
    placeholder = written["input_ids"] == processor.av_token_id
    assert placeholder.sum(dim=1).tolist() == [48, 48]
    plain = tensors["in.train.input_ids"]
    for row, released, real in zip(written["input_ids"], plain, tensors["in.train.attention_mask"], strict=True):
        released = released[real.bool()]
        words = row[(row != processor.av_token_id)][: len(released) - 1]
        assert words.tolist() == released[released != -200].tolist()
    prompt = processor.encode_text([48])["input_ids"][0]
    released = tensors["in.prompt.input_ids"][0]
    assert prompt[prompt != processor.av_token_id].tolist() == released[released != -200].tolist()


# ------------------------------------------------------------------------------------------------------- alignment


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    released, config = write_alignment(folder)
    done = run_converter("--checkpoint", released, "--config", config, "--output", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def our_gradients(model, named: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Our gradients beside the released ones, by our names."""
    parts = split_backbone(named)
    ours = {f"audio_tower.{name}": each for name, each in cavmae_weights(parts.encoder)[0].items()}
    ours |= {f"audio_projection.{name}": each for name, each in parts.projection.items()}
    ours |= {f"scorers.{name}": each for name, each in parts.scorers.items()}
    found = dict(model.named_parameters())
    return {name: (found[name].grad, each) for name, each in ours.items()}


@pytest.mark.parametrize("epoch", range(1, 7))
@pytest.mark.parametrize("leaks", [False, True])
def test_gradients_of_attentive_transport_are_the_released_ones(aligned, epoch, leaks):
    tensors, _ = read_golden("align_attentive")
    model = AutoModel.from_pretrained(aligned, leaks_gradient=leaks, dtype=torch.float64).train()
    assert isinstance(model, DaliForAlignment)
    model.epoch = epoch - 1
    clip = {name: each.double() for name, each in clips(tensors).items()}
    output = model(**clip)
    output.audio_tokens.retain_grad()
    output.loss.backward()
    tight = {"atol": 1e-6, "rtol": 1e-6}
    for name, found in {"transport": output.alignment_loss, "a": output.audio_weights, "b": output.video_weights,
                        "entropy": output.entropy, "plan": output.transport_plan}.items():  # fmt: skip
        expected = tensors["out.transport"].mean() if name == "transport" else tensors[f"out.{name}"]
        torch.testing.assert_close(found.float(), expected, **tight)
    as_coded = leaks and epoch > 1
    names = {True: f"as_coded.epoch{epoch}", False: "transport"}
    expected = tensors[f"out.grad_audio_tokens.{names[as_coded]}"]
    share = expected.abs().max()
    assert (output.audio_tokens.grad - expected).abs().max() < 1e-6 * share
    group = {True: f"out.grad.as_coded.epoch{epoch}.", False: "out.grad.clean."}[as_coded]
    pairs = our_gradients(model, below(tensors, group)) if not as_coded or epoch in (2, 6) else {}
    pairs |= our_gradients(model, below(tensors, f"out.grad.scorer.epoch{epoch}.")) if epoch in (2, 6) else {}
    assert len(pairs) > 8 or as_coded
    largest = max((each.abs().max() for _, each in pairs.values()), default=0)
    for name, (found, each) in pairs.items():
        assert (found - each).abs().max() < 1e-6 * max(each.abs().max(), 1e-3 * largest), name
    if epoch == 1:
        assert not any(each.grad.any() for each in model.scorers.parameters())
    assert all(each.grad is None for each in model.vision_tower.parameters())


def test_evaluation_weighs_all_tokens_alike(aligned):
    tensors, _ = read_golden("align_attentive")
    model = DaliForAlignment.from_pretrained(aligned)
    with torch.no_grad():
        output = model(**clips(tensors))
    torch.testing.assert_close(output.loss, tensors["out.loss_eval"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.transport_plan, tensors["out.plan_eval"], atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ the converter


@pytest.mark.parametrize(
    ("kept", "has_prefix"), [(("audio_backbone",), False), (("audio_backbone", "prefix"), True), (("prefix",), True)]
)
def test_any_file_may_be_missing(tmp_path, kept, has_prefix):
    output, table = convert(tmp_path, *kept)
    model = AutoModelForMultimodalLM.from_pretrained(output)
    assert model.config.has_prefix == has_prefix
    own, image = model.audio_multi_modal_projector, model.multi_modal_projector
    assert all(torch.equal(*pair) for pair in zip(own.parameters(), image.parameters(), strict=True))
    assert ("fresh, to be aligned" in table) == ("audio_backbone" not in kept)
    if not has_prefix:
        with pytest.raises(ValueError, match="no learned prefix"):
            AutoModelForMultimodalLM.from_pretrained(output, use_prefix=True)


def test_an_alignment_begins_with_a_cav_mae(tmp_path):
    """Sources as of the published `cav-mae-scale++.pth`: both halves and the decoder of its pretraining."""
    released, llava, config = write_released(tmp_path, "audio_backbone")
    parts = split_backbone(torch.load(released / FILES["audio_backbone"]))
    pretrained = {f"module.{name}": tensor for name, tensor in parts.encoder.items()}
    halves = {name.replace("_a", "_v"): tensor for name, tensor in pretrained.items() if ".blocks_a." in name}
    left = {"module.decoder_blocks.0.norm1.weight": torch.ones(1), "module.mask_token": torch.zeros(1)}
    torch.save(pretrained | halves | left, tmp_path / "cav-mae-scale++.pth")
    to = ("--llava", llava, "--config", config, "--output", tmp_path / "out")
    done = run_converter("--checkpoint", tmp_path / "cav-mae-scale++.pth", *to)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "out" / "model.safetensors")
    named, _ = cavmae_weights(parts.encoder)
    assert torch.equal(weights["audio_tower.audio_pos_embed"], named["audio_pos_embed"])
    assert weights["audio_projection.weight"].std() > 0 and "fresh, to be aligned" in done.stdout


@pytest.mark.parametrize("kind", ["an empty folder", "a file of LAVCap"])
def test_what_llava_is_not_joined_to_is_named(tmp_path, kind):
    _, llava, config = write_released(tmp_path)
    strange = tmp_path / "strange"
    if kind == "an empty folder":
        strange.mkdir()
    else:
        torch.save({"model": {"prompt_tokens": torch.zeros(1)}}, strange)
    done = run_converter(
        "--checkpoint", strange, "--llava", llava, "--config", config, "--output", tmp_path / "out"
    )  # fmt: skip
    assert done.returncode == 2 and str(strange) in done.stderr and "CAV-MAE" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def llava(tokenizer) -> LlavaForConditionalGeneration:
    """The library's own, small."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    text = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=vision | {"num_attention_heads": 4, "image_size": 28, "patch_size": 14, "projection_dim": 16},
        text_config=text | {"num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": len(tokenizer) + 2},
        image_token_index=len(tokenizer) + 1,
    )
    return LlavaForConditionalGeneration(config).eval()


LAYOUTS = {  # of the library's keys, by what each pattern becomes
    "as the library writes it": {},
    "before Transformers 5": {
        r"^model\.language_model\.": "language_model.model.",
        r"^lm_head\.": "language_model.lm_head.",
        r"^model\.": "",
    },
    "since Transformers 5": {
        r"^language_model\.model\.": "model.language_model.",
        r"^language_model\.lm_head\.": "lm_head.",
        r"^(?=vision_tower|multi_modal_projector)": "model.",
    },
    "without vision_model": {r"vision_tower\.vision_model\.": "vision_tower."},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_gives_the_logits_of_the_library_s_llava(llava, tokenizer, tmp_path, layout):
    llava.save_pretrained(tmp_path / "llava")
    tokenizer.save_pretrained(tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    tensors = load_file(file)
    for pattern, ours in LAYOUTS[layout].items():
        tensors = {re.sub(pattern, ours, name): tensor for name, tensor in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    (tmp_path / "dali").mkdir()
    torch.save({"model.audio_tower.prefix": torch.randn(4, 24)}, tmp_path / "dali" / FILES["prefix"])
    done = run_converter(
        "--checkpoint", tmp_path / "dali", "--llava", tmp_path / "llava", "--output", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out", audio_projector="image")
    pixels, words = torch.randn(2, 3, 28, 28), torch.randint(5, 200, (2, 9))
    ids = [torch.cat([words[:, :3], torch.full((2, 4), token), words[:, 3:]], dim=1) for token in
           (llava.config.image_token_id, model.config.av_token_id)]  # fmt: skip
    with torch.no_grad():
        expected = llava(input_ids=ids[0], pixel_values=pixels).logits
        found = model(ids[1], pixel_values_videos=pixels[:, None]).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("module.blocks_a.3.mlp.fc2.weight"), "audio_layers.3.mlp.fc2.weight"),
        (lambda state: state.update({"module.strange": torch.zeros(1)}), "strange"),
        (lambda state: state.pop("module.proj.bias"), "bias"),
    ],
    ids=["missing", "unknown", "half a projection"],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, change, expected):
    released, llava, config = write_released(tmp_path)
    file = released / FILES["audio_backbone"]
    state = torch.load(file)
    change(state)
    torch.save(state, file)
    done = run_converter("--checkpoint", released, "--llava", llava, "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 2 and expected in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_alignment_alone_is_no_captioner(aligned):
    assert json.loads((aligned / "config.json").read_text())["auto_map"].keys() == {"AutoConfig", "AutoModel"}
