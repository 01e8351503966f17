"""What a caption is worth: the probabilities of its tokens are the model's own."""

import pytest
import torch
from clips import pictures, sound

from lavcap.captioning.captions import mean_log_probabilities, write_captions


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1}], ids=str)
@pytest.mark.parametrize("returned", [1, 2])
def test_they_are_those_of_a_pass_over_the_whole_caption(model, processor, options, returned):
    if returned > 1 and options == {"num_beams": 1}:
        pytest.skip("a greedy search gives one caption")
    inputs = processor(audio=[sound(), sound(0.2)], videos=[pictures(), pictures(4)])
    prompt = inputs["input_ids"].shape[1]
    wanted = {"output_logits": True, "return_dict_in_generate": True, "num_return_sequences": returned}
    written = model.generate(**inputs, max_new_tokens=6, repetition_penalty=1.3, **wanted, **options)
    tokens, means = mean_log_probabilities(model, written, prompt)
    assert len(tokens) == 2 * returned
    features = {
        name: inputs[name].repeat_interleave(returned, 0) for name in ("input_features", "pixel_values_videos")
    }
    for row, (count, mean) in enumerate(zip(tokens, means, strict=True)):
        ids = written.sequences[row : row + 1, : prompt + count]
        mask = torch.cat([inputs["attention_mask"][row // returned], torch.ones(count, dtype=torch.long)])[None]
        one = {name: each[row : row + 1] for name, each in features.items()}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, **one).logits[:, prompt - 1 : -1]
        expected = logits.log_softmax(-1).gather(2, ids[:, prompt:, None]).mean()
        assert mean == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("family", ["model", "avcap", "dali"])
def test_several_captions_come_with_the_most_probable_first(request, family, processor):
    model = request.getfixturevalue(family)
    if family != "model":
        processor = request.getfixturevalue(f"{family}_processor")
    clips = [processor.clip_features(clip) for clip in _clips(processor)]
    found = write_captions(model, processor, clips, num_captions=3, max_new_tokens=5)
    assert [len(each) for each in found] == [3, 3]
    for each in found:
        means = [caption.mean_log_probability for caption in each]
        assert means == sorted(means, reverse=True) and all(mean < 0 for mean in means)
        assert all(1 <= caption.tokens <= 5 for caption in each)
    single = write_captions(model, processor, clips, max_new_tokens=5)
    assert [len(each) for each in single] == [1, 1]


def _clips(processor):
    from media_captioning import Clip

    rate = processor.feature_extractor.sampling_rate
    return [Clip(sound(seconds)[: int(seconds * rate)], None, seconds, rate) for seconds in (0.2, 0.4)]
