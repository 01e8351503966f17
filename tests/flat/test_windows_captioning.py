"""Long media, window by window: the same as each window alone, in one pass, and in time."""

import math
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from clock_films import heard_seconds, shown_time, uneven_times, write_clock
from media_files import write_floats
from PIL import Image

import containers_captioning
import windows_captioning
from containers_captioning import Window
from media_captioning import read_clip, read_windows
from scenes_captioning import scene_cuts
from sources_captioning import MediaError
from windows_captioning import plan_windows


RATE, FRAMES, LENGTH = 16000, 4, 4.0
FORMS = {  # file name, and how it is written
    "telephone.mp4": {"times": uneven_times(11.3)},
    "edited.mov": {"lead": 3.0, "times": uneven_times(11.3, seed=1)},
    "recorder.mkv": {"lead": 7.5, "times": uneven_times(11.3, seed=2)},
    "browser.webm": {"video": "libvpx-vp9", "audio": "libopus"},
    "broadcast.ts": {"lead": 5.0},
    "camera.avi": {"video": "mpeg4", "audio": "libmp3lame"},
    "podcast.mp3": {"video": None, "audio": "libmp3lame"},
    "voice.ogg": {"video": None, "audio": "libopus"},
    "silent.mp4": {"audio": None},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clocks")
    return {name: write_clock(folder / name, 11.3, **options) for name, options in FORMS.items()}


@pytest.mark.parametrize("overlap", [0.0, 1.5])
@pytest.mark.parametrize("name", FORMS)
def test_frames_and_beeps_are_where_the_file_says_in_every_window(films, name, overlap):
    found = list(read_windows(films[name], RATE, FRAMES, LENGTH, overlap=overlap))
    spans = [(window.start, window.end) for window, _ in found]
    assert spans[0][0] == 0 and spans[-1][1] == pytest.approx(11.3, abs=0.1)
    assert all(right[0] == pytest.approx(left[1] - overlap) for left, right in pairwise(spans))
    times = FORMS[name].get("times", np.arange(0, 11.3, 0.04))
    for window, clip in found:
        if clip.frames is not None:
            # Codecs of sound begin some 20 ms before the film; containers differ in how long a last frame lasts.
            slack = 0.05 if window.end < spans[-1][1] else 0.1
            for part, frame in enumerate(clip.frames):
                target = window.start + (part + 0.5) / FRAMES * (window.end - window.start)
                earliest, latest = (times[times <= target + shift].max() for shift in (-slack, slack))
                assert earliest - 0.002 <= shown_time(frame) <= latest + 0.002
        if clip.waveform is not None:
            for second in range(math.ceil(window.start), math.floor(window.end)):
                assert heard_seconds(clip.waveform, RATE, second) == pytest.approx([second - window.start], abs=0.04)
    assert {clip.modalities for _, clip in found} == {found[0][1].modalities}


@pytest.mark.parametrize("name", FORMS)
def test_each_window_is_what_it_is_alone(films, name):
    for window, clip in read_windows(films[name], RATE, FRAMES, LENGTH, start=1.25, end=9.0, overlap=0.5):
        alone = read_clip(films[name], RATE, FRAMES, window.end - window.start, start=window.start)
        assert clip.duration == pytest.approx(alone.duration, abs=0.1) and clip.modalities == alone.modalities
        if clip.frames is not None:
            assert (clip.frames == alone.frames).all()
        if clip.waveform is not None:
            assert len(clip.waveform) == len(alone.waveform)
            # Resampling begins elsewhere: half a sample of the new rate at most.
            assert np.abs(clip.waveform - alone.waveform).max() < 0.1


def test_samples_are_cut_exactly(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 16000 * 10 + 8000).astype(np.float32)
    write_floats(tmp_path / "noise.wav", samples)
    found = list(read_windows(tmp_path / "noise.wav", None, 1, 4.0, overlap=1.0))
    assert [(window.start, window.end) for window, _ in found] == [(0, 4), (3, 7), (6, 10), (9, 10.5)]
    for window, clip in found:
        assert (clip.waveform == samples[round(window.start * RATE) : round(window.end * RATE)]).all()


def test_what_is_said_of_a_window_is_of_no_other(tmp_path):
    """A beep just before a silent window made its channels cancel each other."""
    samples = np.zeros(16000 * 4, np.float32)
    samples[31_000:31_990] = 0.5
    write_floats(tmp_path / "beep.wav", samples)
    for _, clip in read_windows(tmp_path / "beep.wav", None, 1, 2.0):
        assert clip.notes == ()


def test_damage_costs_its_window(tmp_path):
    samples = np.zeros(16000 * 6, np.float32)
    samples[16000 * 3] = np.nan
    write_floats(tmp_path / "damaged.wav", samples)
    first, second, third = (clip for _, clip in read_windows(tmp_path / "damaged.wav", None, 1, 2.0))
    assert first.modalities == third.modalities == "audio"
    assert isinstance(second, MediaError) and "NaN or infinite samples" in str(second)


def test_where_one_stream_ends_the_other_goes_on(tmp_path):
    joined = write_clock(tmp_path / "both.mkv", 5, times=np.arange(0, 2, 0.04))
    found = [clip.modalities for _, clip in read_windows(joined, RATE, FRAMES, 2.5)]
    assert found == ["audio+video", "audio"]


def test_a_picture_is_one_window_of_no_length(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "still.png")
    ((window, clip),) = read_windows(tmp_path / "still.png", RATE, FRAMES, LENGTH)
    assert (window.start, window.end) == (0, 0) and clip.frames.shape == (FRAMES, 32, 32, 3)


def test_a_file_that_is_none_is_refused_before_the_first_window(tmp_path, films):
    (tmp_path / "notes.mp4").write_text("milk, bread")
    with pytest.raises(MediaError, match="not readable as media"):
        next(read_windows(tmp_path / "notes.mp4", RATE, FRAMES, LENGTH))
    with pytest.raises(MediaError, match=r"lasts 11\.3 s and holds nothing from 60 s on; pass an earlier start"):
        next(read_windows(films["podcast.mp3"], RATE, FRAMES, LENGTH, start=60))


def test_windows_are_read_as_they_are_asked_for(films, monkeypatch):
    decoded = []
    real = windows_captioning.frame_to_rgb
    monkeypatch.setattr(windows_captioning, "frame_to_rgb", lambda *args: decoded.append(1) or real(*args))
    windows = read_windows(films["telephone.mp4"], RATE, FRAMES, LENGTH)
    next(windows)
    assert len(decoded) == FRAMES
    windows.close()


def test_a_short_film_among_others_gets_one_thread_and_is_the_same(films, monkeypatch):
    real, threads = containers_captioning._decoded, []

    def noted(reading, stream, *others):
        if stream.type == "video":
            threads.append(stream.codec_context.thread_count)
        return real(reading, stream, *others)

    monkeypatch.setattr(containers_captioning, "_decoded", noted)
    for length, wanted in ((12.0, [1, 0]), (LENGTH, [0, 0])):  # 0: as many as FFmpeg likes
        threads.clear()
        among, alone = (
            list(read_windows(films["telephone.mp4"], RATE, FRAMES, length, decoder_threads=int(others)))
            for others in (True, False)
        )
        assert threads == wanted
        for (window, ours), (same, theirs) in zip(among, alone, strict=True):
            assert window == same
            assert np.array_equal(ours.waveform, theirs.waveform) and np.array_equal(ours.frames, theirs.frames)


@pytest.mark.parametrize(
    ("span", "options", "expected"),
    [
        ((0, 30), {}, [(0, 10), (10, 20), (20, 30)]),
        ((0, 25), {}, [(0, 10), (10, 20), (20, 25)]),
        ((0, 20.05), {}, [(0, 10), (10, 20)]),
        ((0, 20.05), {"shortest": 0.0}, [(0, 10), (10, 20), (20, 20.05)]),
        ((0, 24), {"shortest": 5.0}, [(0, 10), (10, 20)]),
        ((0, 3), {"shortest": 5.0}, [(0, 3)]),
        ((5, 25), {"overlap": 4}, [(5, 15), (11, 21), (17, 25)]),
        ((0, 10), {}, [(0, 10)]),
        ((0, 30), {"cuts": [4, 27]}, [(0, 4), (4, 14), (14, 24), (24, 27), (27, 30)]),
        ((5, 20), {"cuts": [4, 27]}, [(5, 15), (15, 20)]),
    ],
)
def test_windows_cover_every_second(span, options, expected):
    found = plan_windows("a film", *span, 10.0, **options)
    assert found == [Window(*each) for each in expected]


def test_more_windows_than_anyone_has_are_refused():
    with pytest.raises(MediaError, match=r"a film: lasts 10,000,000 s, more than 100,000 windows; pass a part"):
        plan_windows("a film", 0, 1e7, 10.0)


def test_a_processor_takes_of_each_window_what_its_model_takes(processor, films):
    length, film = processor.window, films["telephone.mp4"]
    found = list(processor.load_windows(film, overlap=0.25 * length, start=2.0, end=2.0 + 1.5 * length))
    assert [window for window, _ in found] == [
        Window(2.0, 2.0 + length),
        Window(2.0 + 0.75 * length, 2.0 + 1.5 * length),
    ]
    first = next(processor.load_windows(film))[1]
    alone = processor.load_clip(film)
    assert (first.frames == alone.frames).all() and (first.waveform == alone.waveform).all()
    heard = next(processor.load_windows(film, video=False))[1]
    assert heard.modalities == "audio"
    for wrong, message in (
        ({"overlap": length}, "overlap is .*, expected seconds from 0 to below the window's"),
        ({"start": 3, "end": 2}, "Got the span 3 to 2, expected seconds, the start before the end"),
        ({"start": float("nan")}, "Got the span nan to None"),
    ):
        with pytest.raises(ValueError, match=message):
            next(processor.load_windows(film, **wrong))


def write_scenes(path: Path, cuts: list[float], seconds: float) -> Path:
    """A film of still scenes, each of another picture, the sound of which does not care."""
    times = np.arange(0, seconds, 0.04)
    draw = np.random.default_rng(0)
    scenes = [draw.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(len(cuts) + 1)]
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scenes[sum(time >= cut for cut in cuts)], format="rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
    return path


def test_windows_begin_where_the_picture_changes(tmp_path):
    film = write_scenes(tmp_path / "scenes.mp4", [1.2, 3.0, 3.2, 7.0], 9.0)
    assert scene_cuts(film) == pytest.approx([1.2, 3.0, 7.0], abs=0.021)  # what follows too soon begins none
    spans = [(window.start, window.end) for window, _ in read_windows(film, RATE, 2, 3.0, scene_cut=0.3)]
    expected = [(0, 1.2), (1.2, 3.0), (3.0, 6.0), (6.0, 7.0), (7.0, 9.0)]
    assert [start for start, _ in spans] == pytest.approx([start for start, _ in expected], abs=0.03)
    assert [end for _, end in spans] == pytest.approx([end for _, end in expected], abs=0.05)
    assert scene_cuts(film, 1.0) == []
    assert scene_cuts(film, start=2.0, end=5.0) == pytest.approx([3.0], abs=0.021)


def test_sound_and_stills_have_no_scenes(films, tmp_path):
    assert scene_cuts(films["podcast.mp3"]) == []
    Image.new("RGB", (32, 32)).save(tmp_path / "still.png")
    assert len(list(read_windows(tmp_path / "still.png", RATE, FRAMES, LENGTH, scene_cut=0.3))) == 1
