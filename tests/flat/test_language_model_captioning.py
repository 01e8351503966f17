"""Language models of all kinds below a captioner: as they are alone, with the clips among the words."""

import re

import pytest
import torch
from clips import clip_inputs
from language_kinds import KINDS, PICTURES, QUICK, small_fields, small_whole
from tiny_models import tiny_config, tiny_model
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

from configuration_lavcap import LavcapConfig
from conftest import ROOT
from language_model_captioning import build_language_model, load_language_model
from modeling_lavcap import LavcapForConditionalGeneration
from weights_captioning import WeightsError


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(KINDS.keys() - QUICK.keys())]


def known(kind: str):
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this Transformers has no {kind}")


@pytest.fixture(params=[*QUICK, *SLOW])
def captioner(request) -> LavcapForConditionalGeneration:
    known(request.param)
    return with_text(small_fields(request.param))


def with_text(fields: dict) -> LavcapForConditionalGeneration:
    torch.manual_seed(0)
    options = tiny_config().to_dict() | {"text_config": fields, "tie_word_embeddings": False, "av_token_id": None}
    return LavcapForConditionalGeneration(LavcapConfig(**options)).eval()


def words(seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 290, (2, 7), generator=torch.Generator().manual_seed(seed))


def greedy(model, inputs: dict, steps: int = 5) -> torch.Tensor:
    """The likeliest words, one after the other, by the forward pass alone."""
    ids = inputs["input_ids"]
    for _ in range(steps):
        logits = model(**inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


def test_it_says_about_clips_what_its_forward_pass_says(captioner):
    """One test per kind, for most of its time goes into building the model."""
    ids, inputs = words(), clip_inputs(captioner)
    with torch.no_grad():
        # Words alone: the logits of the language model itself.
        alone = captioner(input_ids=ids).logits
        assert torch.equal(alone, captioner.language_model(input_ids=ids).logits)
        # It does not look ahead.
        changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 5) % 290 + 3], dim=1)
        torch.testing.assert_close(captioner(input_ids=changed).logits[:, :-1], alone[:, :-1], atol=1e-6, rtol=0)
        # Generation, with a cache and without one, alone and behind padding.
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": 1, "do_sample": False}
        expected = greedy(captioner, inputs)
        assert torch.equal(captioner.generate(**inputs, **options), expected)
        assert torch.equal(captioner.generate(**inputs, **options, use_cache=False), expected)
        padding = torch.zeros(2, 3, dtype=torch.long)
        padded = {name: torch.cat([padding, inputs[name]], dim=1) for name in ("input_ids", "attention_mask")}
        assert torch.equal(captioner.generate(**inputs | padded, **options)[:, 3:], expected)
    captioner.train()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == captioner.config.av_token_id, -100)
    captioner(**inputs, labels=labels).loss.backward()
    assert not [name for name, weight in captioner.language_model.named_parameters() if weight.grad is None]


def test_the_page_names_the_kinds_that_are_tested():
    page = (ROOT / "docs/support.md").read_text(encoding="utf-8").partition("## Language models")[2]
    named = {kind for line in page.partition("\n## ")[0].splitlines() if line.startswith("| yes") for kind in
             re.findall(r"`(\w+)`", line.split("|")[2])}  # fmt: skip
    assert named == KINDS.keys() | PICTURES.keys()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_text"])
def test_layers_that_look_up_words_find_padding_where_a_clip_is(kind):
    """As the library's own models of several parts have it at the places of their pictures."""
    known(kind)
    model = with_text(small_fields(kind))
    inputs, found = clip_inputs(model), []
    table = model.language_model.get_decoder().embed_tokens_per_layer
    table.register_forward_hook(lambda module, args, output: found.append(args[0]))
    model(**inputs)
    is_clip = inputs["input_ids"] == model.config.av_token_id
    assert torch.equal(found[0], inputs["input_ids"].masked_fill(is_clip, 0))
    with pytest.raises(ValueError, match="whose layers look up words themselves: pass input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(words()))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bart", "which fills gaps, or stands behind an encoder"),
        ("roberta", "which fills gaps, or stands behind an encoder"),
        ("bert-generation", "which fills gaps, or stands behind an encoder"),
        ("trocr", "which fills gaps, or stands behind an encoder"),
        ("clip", "'clip_text_model', which Transformers .* has no causal language model for"),
        ("mamba", "whose MambaForCausalLM keeps what it has read in a way of its own"),
        ("rwkv", "whose RwkvForCausalLM keeps what it has read in a way of its own"),
        ("minimax", "whose MiniMaxForCausalLM keeps what it has read in a way of its own"),
        ("cpmant", "whose CpmAntForCausalLM takes words alone, no embeddings"),
        ("deepseek_v4", "whose experts are chosen by the ids of words"),
        ("blt", "'blt' and no hidden_size"),
    ],
)
def test_what_would_not_take_a_clip_is_refused_by_name(kind, message):
    known(kind)
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        LavcapForConditionalGeneration(LavcapConfig(text_config={"model_type": kind}))


@torch.no_grad()
@pytest.mark.parametrize("kind", PICTURES)
def test_of_a_model_of_several_parts_the_one_that_writes_is_taken(kind, tmp_path):
    known(kind)
    fields = small_whole(kind)
    torch.manual_seed(0)
    whole = AutoModelForMultimodalLM.from_config(CONFIG_MAPPING[kind](**fields)).eval()
    whole.save_pretrained(tmp_path)
    found = load_language_model(tmp_path, "auto")
    own, taken = (model.get_decoder().state_dict() for model in (whole, found))
    assert own.keys() == taken.keys() and all(torch.equal(own[name], taken[name]) for name in own)
    assert torch.equal(found.get_output_embeddings().weight, whole.get_output_embeddings().weight)
    config = LavcapConfig(text_config=fields)
    configured = build_language_model(config.text_config).eval()
    configured.load_state_dict(found.state_dict())
    for model in (found, configured):
        torch.testing.assert_close(model(input_ids=words()).logits, whole(input_ids=words()).logits)
    assert config.text_config.model_type == found.config.model_type == whole.config.text_config.model_type
    with pytest.raises(ValueError, match="which is of several parts, expected a causal language model: pass its fold"):
        load_language_model(whole, "auto")


def test_a_part_without_weights_is_none(tmp_path):
    whole = AutoModelForMultimodalLM.from_config(CONFIG_MAPPING["llava"](**small_whole("llava")))
    state = {name: tensor for name, tensor in whole.state_dict().items() if "layers.1." not in name}
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(WeightsError, match=r"lacks 9 tensors \(model.layers.1"):
        load_language_model(tmp_path, "auto")


def test_a_part_that_cannot_be_read_alone_is_refused_before_its_weights_are(tmp_path):
    known("minimax_m3_vl")
    CONFIG_MAPPING["minimax_m3_vl"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'minimax_m3_vl', whose weights are packed in a way that its language model"):
        load_language_model(tmp_path, "auto")


def test_a_part_whose_whole_may_scale_logits_otherwise_is_refused_by_name():
    """Nobody would notice: sampled captions are those of another temperature."""
    whole = {"model_type": "fuyu", "text_config": {"model_type": "granite"}}
    assert LavcapConfig(text_config=whole).text_config.model_type == "granite"
    whole["text_config"]["logits_scaling"] = 8.0
    with pytest.raises(ValueError, match="'fuyu' around 'granite' with logits_scaling 8.0, and it is not known"):
        LavcapConfig(text_config=whole)


def test_a_captioner_is_assembled_of_the_part_that_writes(tmp_path):
    whole = AutoModelForMultimodalLM.from_config(CONFIG_MAPPING["llava"](**small_whole("llava")))
    whole.save_pretrained(tmp_path / "llava")
    tower = tiny_model().audio_tower
    model = LavcapForConditionalGeneration.from_parts(text=tmp_path / "llava", audio=tower)
    inputs = clip_inputs(model, video=False)
    model.save_pretrained(tmp_path / "model")
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert model.config.text_model_name == "llava"
