"""What disturbances do to sounds and frames, against closed forms."""

import numpy as np
import pytest

from lavcap.evaluation.names import OTHER_VIDEO
from lavcap.experiments.disturbances import (
    DELAYS,
    DISTURBANCES,
    DROPPED,
    KINDS,
    SNRS,
    add_noise,
    choose_disturbances,
    delay_sound,
    draws_of,
    drop_frames,
    obstacle,
)
from media_captioning import Clip


BOTH = {"audio", "video"}
RATE = 16000


def by_name(name: str):
    (found,) = (each for each in DISTURBANCES if each.name == name)
    return found


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Four seconds of samples and twenty frames that no two of which are alike."""
    draw = np.random.default_rng(1)
    frames = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 4, 4, 3))
    return Clip(draw.uniform(-0.3, 0.3, 4 * RATE).astype(np.float32), frames.copy(), None, RATE)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


@pytest.mark.parametrize("snr", SNRS)
@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_noise_has_the_ratio_that_was_asked_for(clip, snr, level):
    sound = np.float32(level) * clip.waveform
    noise = add_noise(sound, snr, draws_of("a", 0)).astype(np.float64) - sound
    assert 20 * np.log10(rms(sound) / rms(noise)) == pytest.approx(snr, abs=1e-3)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.02 and abs(noise.mean()) < 0.02 * rms(noise)  # white


def test_noise_is_not_clipped_and_silence_stays_silent(clip):
    loud = clip.waveform / np.abs(clip.waveform).max()
    noisy = add_noise(loud, 0, draws_of("a", 0))
    assert noisy.dtype == np.float32 and np.abs(noisy).max() > 1
    assert not add_noise(np.zeros(100, np.float32), 0, draws_of("a", 0)).any()


@pytest.mark.parametrize("seconds", DELAYS)
def test_a_delay_moves_the_samples_and_loses_none(clip, seconds):
    late = delay_sound(clip.waveform, RATE, seconds)
    moved = int(seconds * RATE)
    assert np.array_equal(late[moved:], clip.waveform[:-moved])
    assert np.array_equal(late[:moved], clip.waveform[-moved:])


@pytest.mark.parametrize("percent", DROPPED)
def test_dropped_frames_show_the_last_one_that_was_kept(clip, percent):
    shown = drop_frames(clip.frames, percent / 100, draws_of("a", 0))[:, 0, 0, 0].astype(int)
    dropped = shown != np.arange(20)
    assert dropped.sum() == percent * 20 // 100 and not dropped[0]
    assert all(shown[place] == shown[place - 1] for place in np.flatnonzero(dropped))


def test_the_first_frame_stays_however_many_are_dropped(clip):
    assert (drop_frames(clip.frames, 1.0, draws_of("a", 0)) == clip.frames[0]).all()
    two = drop_frames(clip.frames[:2], 0.75, draws_of("a", 0))
    assert (two == clip.frames[0]).all()


@pytest.mark.parametrize("name", [each.name for each in DISTURBANCES if each.change])
def test_what_is_drawn_depends_on_clip_and_seed_alone_and_one_modality_is_left_alone(clip, name):
    change = by_name(name).change
    one, again, other, seeded = (change(clip, draws_of(*drawn)) for drawn in (("a", 0), ("a", 0), ("b", 0), ("a", 1)))
    assert np.array_equal(one.waveform, again.waveform) and np.array_equal(one.frames, again.frames)
    left = "frames" if "waveform" in _changed(clip, one) else "waveform"
    assert np.array_equal(getattr(one, left), getattr(clip, left)) and len(_changed(clip, one)) == 1
    if not name.startswith("delay"):
        assert _changed(one, other) == _changed(one, seeded) == _changed(clip, one)


def _changed(one: Clip, other: Clip) -> list[str]:
    return [name for name in ("waveform", "frames") if not np.array_equal(getattr(one, name), getattr(other, name))]


def test_a_stronger_disturbance_is_the_weaker_one_and_more(clip):
    dropped = [by_name(f"dropped_{share}").change(clip, draws_of("a", 0)).frames[:, 0, 0, 0] for share in DROPPED]
    gone = [set(np.flatnonzero(frames != np.arange(20))) for frames in dropped]
    assert gone[0] < gone[1] < gone[2]
    weak, strong = (
        by_name(name).change(clip, draws_of("a", 0)).waveform - clip.waveform for name in ("noise_20_db", "noise_0_db")
    )
    np.testing.assert_allclose(10 * weak, strong, atol=1e-4)


def test_disturbances_are_chosen_by_name_and_kind_and_unknown_ones_refused():
    assert choose_disturbances() == list(DISTURBANCES) and len({each.name for each in DISTURBANCES}) == 14
    chosen = choose_disturbances(["noise_0_db", "missing", "video_only"])
    assert [each.name for each in chosen] == ["audio_only", "video_only", "noise_0_db"]
    assert {each.kind for each in choose_disturbances(KINDS)} == {*KINDS} and len(choose_disturbances(KINDS)) == 14
    assert choose_disturbances(["undisturbed"]) == []  # which is measured in any case
    with pytest.raises(ValueError, match="'nois' is not a disturbance; did you mean noise?"):
        choose_disturbances(["noise", "nois"])


@pytest.mark.parametrize(
    ("name", "taken", "shown", "frames", "clips", "expected"),
    [
        ("noise_0_db", BOTH, BOTH, 20, 1, None),
        ("noise_0_db", BOTH, {"audio"}, 0, 1, None),
        ("delay_1_s", BOTH, {"audio"}, 0, 9, "needs audio and video; the clips have no video"),
        ("audio_only", {"audio"}, BOTH, 20, 9, "needs audio and video; the model takes no video"),
        ("noise_5_db", {"video"}, BOTH, 20, 9, "needs audio; the model takes no audio"),
        ("dropped_50", BOTH, BOTH, 1, 9, "needs 2 frames or more; the clips have 1"),
        ("other_video", BOTH, BOTH, 20, 1, "needs two clips or more; there is 1"),
        ("other_video", BOTH, BOTH, 20, 2, None),
    ],
)
def test_what_does_not_apply_is_told_with_the_reason(name, taken, shown, frames, clips, expected):
    assert obstacle(by_name(name), taken, shown, frames, clips) == expected


def test_the_picture_of_another_clip_is_what_evaluation_shows():
    assert by_name("other_video").modality == OTHER_VIDEO
