"""Conversations: the released prompt as a chat template, and the clip that is in the messages."""

import numpy as np
import pytest
import torch
from clips import pictures, placeholders, sound
from media_files import write_media
from PIL import Image

from processing_lavcap import LavcapProcessor


def ask(*entries: dict, text: str | None = None) -> list[dict]:
    return [{"role": "user", "content": [*entries, *([{"type": "text", "text": text}] if text else [])]}]


def tokenized(processor, messages, **options):
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, **options
    )


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_a_conversation_is_the_released_prompt(processor):
    messages = ask({"type": "audio", "path": "x.wav"}, text="Please describe the audio.")
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == "USER: <Speech><av></Speech> Please describe the audio.\nASSISTANT:"
    assert processor.apply_chat_template(ask({"type": "video"}), add_generation_prompt=True) == prompt


@pytest.mark.parametrize("text", [None, "What is heard?"])
def test_a_conversation_gives_what_the_call_gives(processor, text):
    entries = {"type": "audio", "audio": sound()}, {"type": "video", "video": pictures()}
    expected = processor(audio=sound(), videos=pictures(), text=text)
    assert_same(tokenized(processor, ask(*entries, text=text)), expected)
    assert_same(tokenized(processor, ask(entries[0], text=text)), processor(audio=sound(), text=text))
    assert_same(tokenized(processor, ask(entries[1], text=text)), processor(videos=pictures(), text=text))


def test_media_come_by_path_and_the_sound_of_a_video_where_asked(processor, tmp_path):
    path = str(write_media(tmp_path / "clip.mp4", seconds=0.4))
    both = ask({"type": "audio", "path": path}, {"type": "video", "url": path})
    assert_same(tokenized(processor, both), processor(path))
    seen = ask({"type": "video", "path": path})
    assert_same(tokenized(processor, seen), processor(videos=path))
    assert_same(tokenized(processor, seen, load_audio_from_video=True), processor(path))


def test_images_of_a_conversation_are_the_frames_of_its_clip(processor):
    frames = [Image.fromarray(frame) for frame in pictures(3)]
    messages = ask(*({"type": "image", "image": frame} for frame in frames), {"type": "audio", "audio": sound()})
    assert_same(tokenized(processor, messages), processor(audio=sound(), videos=frames))


def test_several_conversations_are_a_batch(processor):
    conversations = [
        ask({"type": "audio", "audio": sound()}),
        ask({"type": "video", "video": pictures()}, text="and?"),
    ]
    inputs = tokenized(processor, conversations)
    expected = processor(audio=[sound(), None], videos=[None, pictures()], text=["Please describe the audio.", "and?"])
    assert_same(inputs, expected)
    assert placeholders(processor, inputs) == [3, 4]
    assert torch.equal(
        processor.apply_chat_template(conversations, tokenize=True, add_generation_prompt=True), inputs["input_ids"]
    )


def test_the_rate_of_a_sound_and_the_address_of_an_image_are_heeded(processor, tmp_path):
    slow = ask({"type": "audio", "audio": sound(), "sampling_rate": 8000})
    assert_same(tokenized(processor, slow), processor(audio=sound(), sampling_rate=8000))
    Image.fromarray(pictures()[0]).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    for entry in ({"type": "image", "url": path}, {"type": "image_url", "image_url": {"url": path}}):
        assert_same(tokenized(processor, ask(entry)), processor(images=[path]))


@torch.no_grad()
def test_words_alone_are_padded_on_the_left_like_prompts_of_clips(processor, model):
    short, long = (ask(text=text) for text in ("rain?", "what falls while a red circle beeps?"))
    inputs = tokenized(processor, [short, long])
    assert inputs["attention_mask"][0, 0] == 0 and inputs["attention_mask"][:, -1].tolist() == [1, 1]
    together = processor.decode_captions(model.generate(**inputs), inputs)
    for conversation, caption in zip((short, long), together, strict=True):
        alone = tokenized(processor, conversation)
        assert alone["input_ids"][0, 0] == processor.tokenizer.bos_token_id
        assert processor.decode_captions(model.generate(**alone), alone) == [caption]
    padded = tokenized(processor, short, processor_kwargs={"text_kwargs": {"padding": "max_length", "max_length": 50}})
    assert padded["input_ids"].shape == (1, 50)


def test_options_of_the_call_pass_through(processor):
    messages = ask({"type": "video", "video": pictures()})
    inputs = tokenized(
        processor, messages, processor_kwargs={"num_frames": 2, "padding": "max_length", "max_length": 99}
    )
    assert inputs["input_ids"].shape == (1, 99) and placeholders(processor, inputs) == [2]
    assert inputs["pixel_values_videos"].shape[:2] == (1, 2)
    arrays = tokenized(processor, messages, return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in arrays.values())


def test_turns_and_a_system_message_keep_their_order(processor):
    messages = [
        {"role": "system", "content": "You listen."},
        *ask({"type": "audio", "audio": sound()}, text="What is heard?"),
        {"role": "assistant", "content": [{"type": "text", "text": "rain"}]},
        {"role": "user", "content": "And then?"},
    ]
    end = processor.tokenizer.eos_token
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == (
        f"You listen.\nUSER: <Speech><av></Speech> What is heard?\nASSISTANT: rain{end}\nUSER: And then?\nASSISTANT:"
    )
    assert placeholders(processor, tokenized(processor, messages)) == [3]


def test_an_answer_that_was_begun_is_continued(processor):
    messages = ask({"type": "audio", "audio": sound()}) + [{"role": "assistant", "content": "a red"}]
    prompt = processor.apply_chat_template(messages, continue_final_message=True)
    assert prompt.endswith("ASSISTANT: a red")


def test_a_template_of_one_s_own_may_write_the_first_token_itself(processor):
    template = "{{ bos_token }}Sound: <av> Caption:"
    inputs = tokenized(processor, ask({"type": "audio", "audio": sound()}), chat_template=template)
    assert_same(inputs, processor(audio=sound(), text="Sound: <av> Caption:"))


@torch.no_grad()
def test_a_conversation_is_captioned_as_the_clip_is(processor, model):
    entries = {"type": "audio", "audio": sound()}, {"type": "video", "video": pictures()}
    captions = []
    for inputs in (tokenized(processor, ask(*entries)), processor(audio=sound(), videos=pictures())):
        captions.append(processor.decode_captions(model.generate(**inputs), inputs))
    assert captions[0] == captions[1]
    ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)] == captions[0]


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (ask({"type": "audio", "audio": sound()}, {"type": "audio", "audio": sound()}), {}, "2 audio entries"),
        (ask({"type": "video", "path": "a.mp4"}, {"type": "video", "path": "b.mp4"}), {}, "2 video entries"),
        (ask({"type": "sound", "audio": sound()}), {}, "an entry of type 'sound', expected one of 'text', 'audio'"),
        (ask({"type": "audio", "file": "a.wav"}), {}, "a audio entry with 'file', expected one of 'audio', 'url'"),
        (ask({"type": "audio", "url": "https://a.org/b.wav"}), {}, "an address, not a file; download it"),
        (ask({"type": "audio", "audio": sound()}), {"return_assistant_tokens_mask": True}, "pass captions"),
    ],
)
def test_a_conversation_that_cannot_be_used_says_why(processor, messages, options, message):
    with pytest.raises(ValueError, match=message):
        tokenized(processor, messages, **options)


def test_a_prompt_of_one_s_own_has_no_template_until_one_is_given(fitting_config, tokenizer):
    own = LavcapProcessor.from_config(fitting_config, tokenizer, prompt="Sound: {av} {instruction}")
    assert own.chat_template is None
    with pytest.raises(ValueError, match="does not have a chat template"):
        own.apply_chat_template(ask({"type": "audio", "audio": sound()}))


def test_the_template_is_saved_with_the_processor(processor, saved_model):
    assert (saved_model / "chat_template.jinja").read_text() == processor.chat_template
    assert LavcapProcessor.from_pretrained(saved_model).chat_template == processor.chat_template
