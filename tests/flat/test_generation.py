"""`generate`: every way of decoding says the same of a clip, whatever it shares a batch with."""

import copy
import shutil

import pytest
import torch
from clips import clip_inputs, pictures, sound
from tiny_models import tiny_model
from transformers import CompileConfig, GenerationConfig, GenerationMixin

from generation_captioning import CaptionGenerationMixin
from lavcap.benchmarks.models import random_clips
from processing_lavcap import LavcapProcessor


NEW_TOKENS = 8


@pytest.fixture(scope="module")
def plain():
    """A model that decodes greedily by default, and never ends early."""
    model = tiny_model()
    model.generation_config = GenerationConfig(max_new_tokens=NEW_TOKENS, pad_token_id=0, bos_token_id=1)
    return model


def new_tokens(model, inputs, **options) -> list[list[int]]:
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()


# ------------------------------------------------------------------------------------------------- ways of decoding


@torch.no_grad()
def test_greedy_decoding_takes_the_likeliest_token_of_the_forward_pass(plain):
    inputs = clip_inputs(plain)
    rows = new_tokens(plain, inputs)
    for _ in range(NEW_TOKENS):
        likeliest = plain(**inputs).logits[:, -1].argmax(dim=-1, keepdim=True)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], likeliest], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert inputs["input_ids"][:, -NEW_TOKENS:].tolist() == rows


@torch.no_grad()
def test_as_many_beams_as_continuations_find_the_likeliest_pair_of_tokens(plain):
    inputs = clip_inputs(plain, batch=1)
    (found,) = new_tokens(plain, inputs, max_new_tokens=2, num_beams=300)
    first = plain(**inputs).logits[0, -1].log_softmax(dim=-1)
    follow = {name: value.expand(300, *value.shape[1:]) for name, value in inputs.items()}
    follow["input_ids"] = torch.cat([follow["input_ids"], torch.arange(300)[:, None]], dim=1)
    follow["input_ids"][300 - 1, -1] = 0  # any word: the placeholder has none
    follow["attention_mask"] = torch.ones_like(follow["input_ids"])
    pairs = first[:, None] + plain(**follow).logits[:, -1].log_softmax(dim=-1)
    assert divmod(int(pairs.argmax()), 300) == tuple(found)


def test_sampling_repeats_with_the_seed_and_differs_without(plain):
    inputs, rows = clip_inputs(plain, batch=1), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        rows.append(new_tokens(plain, inputs, do_sample=True, num_return_sequences=4))
    assert rows[0] == rows[1] != rows[2]
    assert len({tuple(row) for row in rows[0]}) > 1


@pytest.mark.parametrize("options", [{"num_beams": 4}, {"do_sample": True, "top_k": 1}])
def test_several_sequences_belong_to_their_clip_in_order(plain, options):
    inputs = clip_inputs(plain)
    several = new_tokens(plain, inputs, num_return_sequences=3, **options)
    assert len(several) == 6
    best = new_tokens(plain, inputs, **options)
    assert [several[0], several[3]] == best


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cache", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_the_kind_of_cache_does_not_change_what_is_said(plain, cache, beams):
    inputs = clip_inputs(plain)
    assert new_tokens(plain, inputs, num_beams=beams, **cache) == new_tokens(plain, inputs, num_beams=beams)


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")],
        ),
    ],
)
def test_the_decoding_step_compiles_as_one_graph(plain, backend):
    inputs, expected = clip_inputs(plain), new_tokens(plain, clip_inputs(plain))
    compile_config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    compile_config._compile_all_devices = True  # the CPU too, which generate() leaves uncompiled
    torch._dynamo.reset()
    model = copy.deepcopy(plain)
    found = new_tokens(model, inputs, cache_implementation="static", compile_config=compile_config)
    assert found == expected
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_an_assistant_and_looking_back_change_nothing_but_the_speed(plain):
    inputs = clip_inputs(plain, batch=1)
    expected = new_tokens(plain, inputs)
    assert new_tokens(plain, inputs, prompt_lookup_num_tokens=3, eos_token_id=299) == expected
    for assistant in (tiny_model(), tiny_model(text_config={"num_hidden_layers": 1})):
        assert new_tokens(plain, inputs, assistant_model=assistant) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "num_beams": 3},
        {"encoder_repetition_penalty": 1.2},
        {"bad_words_ids": [[5], [7, 8]]},
        {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("resized", [False, True])
def test_what_looks_at_the_prompt_s_ids_does_not_stumble_over_the_placeholder(plain, options, resized):
    model = copy.deepcopy(plain)
    if resized:
        model.resize_token_embeddings(301)  # with a row for it
    model.generation_config.eos_token_id = 299
    inputs = clip_inputs(model, batch=1)
    rows = new_tokens(model, inputs, max_new_tokens=20, **options)
    assert rows and model.config.av_token_id not in rows[0]
    if "prompt_lookup_num_tokens" in options:
        # The look-up of older releases may go on a few tokens beyond max_new_tokens.
        assert rows[0][:20] == new_tokens(model, inputs, max_new_tokens=20)[0]
    if options == {"no_repeat_ngram_size": 1}:
        assert len(set(rows[0])) == len(rows[0])


@torch.no_grad()
def test_a_penalty_on_repetition_is_one_on_words_alone(plain):
    """Against the penalty written out: the placeholder stands for no word, least of all for the end."""
    inputs = clip_inputs(plain, batch=1)
    output = plain.generate(
        **inputs, max_new_tokens=1, repetition_penalty=1.5, output_scores=True, return_dict_in_generate=True
    )
    expected = plain(**inputs).logits[0, -1]
    for token in {1, 5, 6, 7}:  # the words of the prompt
        expected[token] = expected[token] / 1.5 if expected[token] > 0 else expected[token] * 1.5
    torch.testing.assert_close(output.scores[0][0], expected)


def test_generation_stops_at_a_string(plain, tokenizer, fitting_config):
    model = tiny_model(text_config={"vocab_size": fitting_config.text_config.vocab_size})
    inputs = clip_inputs(model, batch=1)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 300, model.config.av_token_id)
    (row,) = new_tokens(model, inputs, max_new_tokens=12)
    word = tokenizer.decode(row[3]).strip()
    (stopped,) = new_tokens(model, inputs, max_new_tokens=12, stop_strings=[word], tokenizer=tokenizer)
    assert stopped == row[: len(stopped)] and len(stopped) <= 4 and word in tokenizer.decode(stopped)


def test_generation_may_start_from_soft_tokens_or_from_embeddings(plain):
    inputs = clip_inputs(plain)
    expected = new_tokens(plain, inputs)
    clips = plain.get_soft_tokens(inputs["input_features"], inputs["pixel_values_videos"])
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoded = words | {"soft_tokens": clips.soft_tokens, "soft_token_counts": clips.soft_token_counts}
    assert new_tokens(plain, encoded) == expected
    embeds = plain.get_input_embeddings()(words["input_ids"].clamp(max=299)).detach()
    embeds[:, 2:9] = clips.soft_tokens
    mask = words["attention_mask"]
    assert plain.generate(inputs_embeds=embeds, attention_mask=mask, min_new_tokens=1).tolist() == expected


def test_scores_and_hidden_states_come_with_the_sequences(plain):
    output = plain.generate(
        **clip_inputs(plain), return_dict_in_generate=True, output_scores=True, output_hidden_states=True
    )
    assert len(output.scores) == len(output.hidden_states) == NEW_TOKENS
    assert output.scores[0].shape == (2, 300)


@pytest.mark.parametrize(
    ("family", "processor_name"), [("model", "processor"), ("avcap", "avcap_processor"), ("dali", "dali_processor")]
)
@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}],
)
def test_a_clip_is_read_once_for_all_that_begins_with_it(request, monkeypatch, family, processor_name, options):
    model, processor = request.getfixturevalue(family), request.getfixturevalue(processor_name)
    clips = random_clips(model, processor, 2)
    del clips[1]["input_features"]  # of fewer tokens than the other
    inputs, rows = processor.batch(clips), []
    options = {"num_beams": 1, "max_new_tokens": NEW_TOKENS, "output_logits": True} | options
    note = model.get_output_embeddings().register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))

    def written():
        torch.manual_seed(0)
        found = model.generate(**inputs, **options, return_dict_in_generate=True)
        return found.sequences, found.logits

    try:
        once, its_logits = written()
        read = rows.pop(0)
        monkeypatch.setattr(CaptionGenerationMixin, "_prefill", GenerationMixin._prefill)
        rows.clear()
        each, logits = written()
    finally:
        note.remove()
    assert read == 2 and rows[0] == 2 * max(options["num_beams"], options.get("num_return_sequences", 1))
    assert torch.equal(once, each)
    torch.testing.assert_close(its_logits, logits)


# ---------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def mixed():
    """Clips of mixed length and modality, and prompts of mixed length."""
    audio = [sound(0.45), sound(0.2), None, sound(0.02)]
    videos = [pictures(), None, pictures(3), pictures(1)]
    texts = ["What is heard?", "rain falls while a red circle beeps, then what?", "a", "Please describe the audio."]
    return audio, videos, texts


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"cache_implementation": "static"}],
    ids=str,
)
@pytest.mark.parametrize("fusion", ["concat_time", "concat_channel", "cross_attention"])
def test_captions_of_a_mixed_batch_are_those_one_by_one(fusion, options, mixed, tokenizer, fitting_config):
    vocabulary = {"vocab_size": fitting_config.text_config.vocab_size}
    model = tiny_model(fusion=fusion, num_video_frames=3, text_config=vocabulary)
    processor = LavcapProcessor.from_config(model.config, copy.deepcopy(tokenizer))
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    audio, videos, texts = mixed
    batch = processor(audio=audio, videos=videos, text=texts)
    together = processor.decode_captions(model.generate(**batch, **options), batch)
    alone = []
    for index in range(len(texts)):
        single = processor(audio=[audio[index]], videos=[videos[index]], text=texts[index])
        alone += processor.decode_captions(model.generate(**single, **options), single)
    assert together == alone
    assert len(set(together)) > 1


def test_the_order_of_a_batch_does_not_matter(plain):
    inputs = clip_inputs(plain)
    flipped = {name: value.flip(0) for name, value in inputs.items()}
    assert new_tokens(plain, flipped)[::-1] == new_tokens(plain, inputs)
