"""Released checkpoints of AVCap, CAV-MAE and GIT give the released numbers, through the converter and Auto classes."""

import json

import pytest
import torch
from avcap_golden import below, golden_clip, random_avcap, read_golden, up_to_end, write_released
from safetensors.torch import load_file, save_file
from stranger import run_inside, run_stranger
from transformers import AutoModel, AutoModelForMultimodalLM, GitConfig, GitForCausalLM

import modeling_avcap  # noqa: F401, the Auto classes know the family
from cavmae_weights_captioning import cavmae_weights
from git_weights_captioning import git_weights, load_git
from modeling_avcap import AvcapForConditionalGeneration


def run_converter(*options: object):
    return run_inside("scripts/convert_checkpoint.py", *options)


def convert(name: str, folder, *options: object, prefix: str = ""):
    checkpoint, config = write_released(name, folder, prefix)
    output = folder / name
    done = run_converter("--checkpoint", checkpoint, "--config", config, "--output", output, *options)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


@pytest.fixture(scope="module")
def golden():
    return read_golden("avcap_t1")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert("avcap_t1", tmp_path_factory.mktemp("avcap"))


@pytest.fixture(params=["eager", "sdpa"])
def model(converted, request):
    return AutoModelForMultimodalLM.from_pretrained(converted[0], attn_implementation=request.param)


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("name", ["cavmae_t1", "cavmae_t8"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_encoder_alone_gives_the_released_tokens(tmp_path, name, prefix):
    encoder = AutoModel.from_pretrained(convert(name, tmp_path, prefix=prefix)[0])
    tensors, _ = read_golden(name)
    for kind, kinds in {"joint": ("audio", "video"), "audio": ("audio",), "video": ("video",)}.items():
        with torch.no_grad():
            output = encoder(**golden_clip(tensors, *kinds))
        torch.testing.assert_close(output.last_hidden_state, tensors[f"out.{kind}"], atol=1e-5, rtol=0)
        assert output.token_counts.tolist() == [tensors[f"out.{kind}"].shape[1]] * 2


def test_tokens_logits_and_loss_are_the_released_ones(model, golden):
    tensors, _ = golden
    clip, ids = golden_clip(tensors), tensors["in.caption_tokens"]
    labels = ids.masked_fill(tensors["in.need_predict"] == 0, -100)
    with torch.no_grad():
        output = model(input_ids=ids, labels=labels, **clip)
        tokens = model.get_soft_tokens(**clip)
    torch.testing.assert_close(tokens.soft_tokens, tensors["out.av_projected"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.logits, tensors["out.logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.loss, tensors["out.loss"], atol=1e-5, rtol=0)


def test_gradients_are_the_released_ones(model, golden):
    tensors, _ = golden
    ids = tensors["in.caption_tokens"]
    labels = ids.masked_fill(tensors["in.need_predict"] == 0, -100)
    model(input_ids=ids, labels=labels, **golden_clip(tensors)).loss.backward()
    expected = below(tensors, "out.grad.")
    encoder, _ = cavmae_weights(below(expected, "av_encoder."))
    text = {name: tensor for name, tensor in expected.items() if name.startswith("textual.e")}
    text["textual.output.bias"] = expected["textual.output.bias"]
    named = {f"audio_visual_encoder.{name}": tensor for name, tensor in encoder.items()}
    named |= {f"language_model.{name}": tensor for name, tensor in git_weights(text)[0].items()}
    named["multi_modal_projector.linear.weight"] = expected["textual.av_projection.0.weight"]
    found = dict(model.named_parameters())
    assert len(named) == 8
    largest = max(tensor.abs().max() for tensor in named.values())
    for name, tensor in named.items():
        share = max(tensor.abs().max(), largest * 1e-3)  # keys have a bias without effect: its gradient is noise
        assert (found[name].grad - tensor).abs().max() < 1e-5 * share, name


def test_captions_are_the_released_ones(model, golden):
    tensors, options = golden
    clip = golden_clip(tensors)
    found = model.generate(**clip, return_dict_in_generate=True, output_scores=True)
    assert up_to_end(found.sequences) == up_to_end(tensors["out.beam4"])
    torch.testing.assert_close(found.sequences_scores, tensors["out.beam4_score"], atol=1e-4, rtol=0)
    assert up_to_end(model.generate(**clip, num_beams=1)) == up_to_end(tensors["out.greedy"])
    assert model.generation_config.max_length == options["search"]["max_steps"]


def test_a_caption_that_is_cut_off_keeps_its_last_word(model, golden):
    """Where the released search puts `[SEP]` in its place."""
    tensors, options = golden
    found = model.generate(**golden_clip(tensors), max_length=options["search"]["max_steps_short"])
    expected = tensors["out.beam4_short"]
    cut = expected[0].tolist()
    assert cut[-1] == 102 and found[0].tolist()[:-1] == cut[:-1] and found[0, -1] != 102
    assert up_to_end(found[1:]) == up_to_end(expected[1:])


def test_one_modality_alone_takes_its_own_way(model, golden):
    tensors, _ = golden
    encoder = model.audio_visual_encoder
    for kind in ("audio", "video"):
        clip = golden_clip(tensors, kind)
        with torch.no_grad():
            alone = encoder(**clip).last_hidden_state
            masked = encoder(**golden_clip(tensors), **{f"{other}_mask": torch.tensor([other == kind] * 3)
                                                         for other in ("audio", "video")})  # fmt: skip
        count = alone.shape[1]
        assert masked.token_counts.tolist() == [count] * 3
        torch.testing.assert_close(masked.last_hidden_state[:, :count], alone, atol=1e-6, rtol=0)
        assert not masked.last_hidden_state[:, count:].any()
        assert model.generate(**clip).shape[0] == 3


# ------------------------------------------------------------------------------------------------------ the converter


def test_the_table_says_what_went_where(converted):
    _, table = converted
    assert "audio_visual_encoder" in table and "CAV-MAE's tagging head" in table
    assert "no processor" in table and "AvcapProcessor.from_config" in table


@pytest.mark.parametrize("mode", ["audio_captioning", "video_captioning"])
def test_a_mode_of_one_modality_builds_that_one(tmp_path, golden, mode):
    tensors, options = golden
    checkpoint, config = write_released("avcap_t1", tmp_path)
    config.write_text(json.dumps(options | {"mode": mode}))
    done = run_converter("--checkpoint", checkpoint, "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out")
    kind = mode.removesuffix("_captioning")
    assert model.modalities == (kind,)
    whole = AutoModelForMultimodalLM.from_pretrained(convert("avcap_t1", tmp_path)[0])
    with torch.no_grad():
        alone, other = (each.get_soft_tokens(**golden_clip(tensors, kind)) for each in (model, whole))
    torch.testing.assert_close(alone.soft_tokens, other.soft_tokens, atol=1e-6, rtol=0)
    assert model.num_parameters() < whole.num_parameters()
    with pytest.raises(ValueError, match="leave them out"):
        model.get_soft_tokens(**golden_clip(tensors))


def test_gits_own_file_becomes_a_part_that_a_model_is_assembled_of(tmp_path, golden):
    tensors, options = golden
    state = below(tensors, "state.")
    git = {f"module.{name}": tensor for name, tensor in state.items() if name.startswith("textual.")}
    git = {name: tensor for name, tensor in git.items() if "av_projection" not in name}
    git["module.textual.visual_projection.0.weight"] = torch.zeros(32, 48)
    git["module.image_encoder.conv1.weight"] = torch.zeros(2, 3, 4, 4)
    torch.save({"model": git}, tmp_path / "git.pt")
    (tmp_path / "git.json").write_text(json.dumps(options["decoder"]))
    options_of = ("--checkpoint", tmp_path / "git.pt", "--config", tmp_path / "git.json")
    done = run_converter(*options_of, "--output", tmp_path / "git")
    assert done.returncode == 0, done.stderr
    assert "GIT's image encoder" in done.stdout
    encoder, _ = convert("cavmae_t1", tmp_path)
    model = AvcapForConditionalGeneration.from_parts(text=tmp_path / "git", audio_visual=encoder)
    words = model.language_model.embeddings.word_embeddings.weight
    assert torch.equal(words, state["textual.embedding.words.weight"])
    assert model.language_model.output.weight is words
    again = AvcapForConditionalGeneration.from_parts(
        text=tmp_path / "git.pt", text_config={"num_attention_heads": 4},
        audio_visual=tmp_path / "cavmae_t1.safetensors",
        audio_visual_config={"num_attention_heads": 3, "image_size": 48},
    )  # fmt: skip
    for name in ("audio_visual_encoder", "language_model"):
        first, second = (getattr(each, name).state_dict() for each in (model, again))
        assert all(torch.equal(first[key], second[key]) for key in first)
    for video_patches in ("fresh", "inflated"):
        several = AvcapForConditionalGeneration.from_parts(
            text=tmp_path / "git", audio_visual=encoder, audio_visual_config={"num_video_frames": 5},
            video_patches=video_patches,
        )  # fmt: skip
        patches = several.audio_visual_encoder.video_patch_embed.weight
        spread = model.audio_visual_encoder.video_patch_embed.weight
        assert patches.shape == (24, 3, 2, 16, 16)
        assert torch.allclose(patches.sum(dim=2), spread) == (video_patches == "inflated")


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_of_the_librarys_git_says_what_that_says(tmp_path, tied):
    """The configuration of its folder counts, too: neither its heads nor the rest are the published ones."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"layer_norm_eps": 1e-3, "hidden_act": "relu", "vocab_size": 60, "tie_word_embeddings": tied}
    picture = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    picture |= {"image_size": 32, "patch_size": 16}
    theirs = GitForCausalLM(GitConfig(vision_config=picture, bos_token_id=1, eos_token_id=2, **text)).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    theirs.save_pretrained(tmp_path / "git")
    ours = load_git(tmp_path / "git")
    ids, pixels = torch.randint(3, 60, (2, 5)), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        picture = theirs.git.visual_projection(theirs.git.image_encoder(pixels).last_hidden_state)
        expected = theirs(input_ids=ids, pixel_values=pixels).logits[:, -5:]
        found = ours(input_ids=ids, prefix=picture).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (ours.config.bos_token_id, ours.config.tie_word_embeddings) == (1, tied)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state, options: state.pop("av_encoder.blocks_a.3.mlp.fc2.weight"), "audio_layers.3.mlp.fc2.weight"),
        (lambda state, options: state.update({"av_encoder.strange": torch.zeros(1)}), "strange"),
        (lambda state, options: state.pop("textual.av_projection.1.bias"), "layer_norm.bias"),
        (lambda state, options: options["encoder"].update(embed_dim=48), "embed_dim is 48, expected 24"),
        (lambda state, options: options["encoder"].update(num_head=3), "did you mean num_heads"),
        (lambda state, options: options.update(mode="caption"), "mode is 'caption'"),
        (lambda state, options: options["decoder"].update(num_layers=2), "num_layers is 2, expected 3"),
    ],
    ids=["missing", "unknown", "half a projection", "width", "misspelt", "mode", "layers"],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, change, expected):
    checkpoint, config = write_released("avcap_t1", tmp_path)
    state, options = load_file(checkpoint), json.loads(config.read_text())
    change(state, options)
    save_file(state, checkpoint)
    config.write_text(json.dumps(options))
    done = run_converter("--checkpoint", checkpoint, "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 2 and expected in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frames", [1, 4, 8])
def test_the_released_sizes_need_no_configuration(frames):
    """The full list of keys, on the meta device: what it tells is read off the shapes."""
    from cavmae_weights_captioning import cavmae_fields
    from git_weights_captioning import git_fields

    with torch.device("meta"):
        state = random_avcap(frames)
    fields = cavmae_fields(cavmae_weights(below(state, "av_encoder."))[0], {})
    assert fields == {
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_modality_layers": 11,
        "num_joint_layers": 1, "num_mel_bins": 128, "max_frames": 1024, "image_size": 224,
        "num_video_frames": frames, "patch_size": 16,
    }  # fmt: skip
    text = {name: tensor for name, tensor in state.items() if name.startswith("textual.") and "proj" not in name}
    assert git_fields(git_weights(text)[0], {}) == {
        "vocab_size": 30522, "hidden_size": 768, "max_position_embeddings": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 6, "num_attention_heads": 12,
    }  # fmt: skip


STRANGER = """
import json, sys
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
clip = {"input_features": torch.zeros(1, 80, 128), "pixel_values_videos": torch.zeros(1, 1, 3, 48, 48)}
print(json.dumps([type(model).__name__, model.generate(**clip)[0, 0].item()]))
"""


@pytest.mark.slow
def test_what_is_converted_loads_for_a_stranger(converted, tmp_path):
    result = run_stranger(STRANGER, str(converted[0]), folder=tmp_path, HF_HOME=str(tmp_path))
    assert result.printed == ["AvcapForConditionalGeneration", 101]


def test_a_tokenizer_is_written_beside_where_it_can_be_had(tmp_path, bert_tokenizer):
    bert_tokenizer.save_pretrained(tmp_path / "bert")
    checkpoint, config = write_released("avcap_t1", tmp_path)
    arguments = ("--checkpoint", checkpoint, "--config", config, "--tokenizer", tmp_path / "bert")
    done = run_converter(*arguments, "--output", tmp_path / "out")
    assert done.returncode == 2 and "200 tokens and the language model 160" in done.stderr
