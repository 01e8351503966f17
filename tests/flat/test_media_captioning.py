"""Decoding of real files: what is there, when it happens, and one line for everything that cannot be used."""

import io
import struct
import wave

import av
import numpy as np
import pytest
from media_files import write_floats, write_media
from PIL import Image

import containers_captioning
from media_captioning import even_indices, read_clip, read_duration
from pictures_captioning import read_images
from sounds_captioning import Sound, resample, to_mono
from sources_captioning import MediaError, StoredFile, list_images


RATE, FRAMES, WINDOW = 16000, 5, 4.0
CONTAINERS = {
    "mp4": {},
    "mkv": {},
    "mov": {},
    "webm": {"audio": "libopus", "video": "libvpx-vp9", "rate": 48000},
    "avi": {"audio": "libmp3lame", "video": "mpeg4"},
    "ts": {},
    "wav": {"audio": "pcm_s16le", "video": None},
    "flac": {"audio": "flac", "video": None},
    "mp3": {"audio": "libmp3lame", "video": None},
}


def read(path, **options):
    return read_clip(path, RATE, FRAMES, WINDOW, **options)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_gives_sound_and_picture_in_step(tmp_path, suffix):
    clip = read(write_media(tmp_path / f"clip ü.{suffix}", seconds=2, **CONTAINERS[suffix]))
    assert clip.duration == pytest.approx(2, abs=0.1)
    # The tone starts after one second, at the amplitude that was written: stereo is averaged, not added.
    onset = np.flatnonzero(np.abs(clip.waveform) > 0.1)[0] / RATE
    assert onset == pytest.approx(1, abs=0.05)
    assert np.abs(clip.waveform[int(1.2 * RATE) : int(1.8 * RATE)]).max() == pytest.approx(0.5, abs=0.05)
    if CONTAINERS[suffix].get("video", "libx264"):
        # The picture brightens by 2 per frame of 40 ms: the values tell the times.
        times = clip.frames[:, 32, 32].mean(axis=-1) / 2 / 25
        assert times == pytest.approx((np.arange(FRAMES) + 0.5) * 2 / FRAMES, abs=0.13)
        assert clip.modalities == "audio+video"


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("ts", "mpeg2video"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")],
)
def test_what_is_not_shown_is_left_out_and_the_file_read_once_and_nothing_changes(
    tmp_path, monkeypatch, suffix, codec
):
    path = write_media(tmp_path / f"film.{suffix}", seconds=4, **{**CONTAINERS[suffix], "video": codec})
    parts = [(0.0, 4.0, 5), (0.52, 1.0, 4), (1.7, 2.2, 30)]  # start, seconds and frames; a jump, and all frames

    def read_parts():
        decoded, opened = [], []
        with monkeypatch.context() as patched:
            is_noise, begin = containers_captioning._is_noise, containers_captioning._Bytes.__enter__
            noted = lambda stream, frame: decoded.append(stream.type) or is_noise(stream, frame)  # noqa: E731
            patched.setattr(containers_captioning, "_is_noise", noted)
            patched.setattr(containers_captioning._Bytes, "__enter__", lambda own: opened.append(1) or begin(own))
            clips = [read_clip(path, RATE, count, seconds, start=start) for start, seconds, count in parts]
        return clips, decoded.count("video"), len(opened)

    fast, few, once = read_parts()
    monkeypatch.setattr(containers_captioning, "SKIPPING_CODECS", frozenset())
    monkeypatch.setattr(containers_captioning, "KEPT_BYTES", -1)
    plain, all_frames, often = read_parts()
    for ours, theirs in zip(fast, plain, strict=True):
        assert np.array_equal(ours.waveform, theirs.waveform) and np.array_equal(ours.frames, theirs.frames)
    assert once == len(parts) and often >= 3 * len(parts)
    assert codec != "libx264" or few < 0.9 * all_frames  # the others are written without frames of no use


@pytest.mark.parametrize("channels", ["mean", "first"])
def test_sound_is_the_same_however_its_frames_are_joined(channels):
    draw = np.random.default_rng(0)
    pieces = [draw.uniform(-1, 1, (2, size)).astype(np.float32) for size in (1, 1024, 7, 40_000, 1152, 300)]

    def heard(pieces):
        sound, start = Sound(RATE, channels, 1.0), 0
        timed = []
        for piece in pieces:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout="stereo")
            frame.sample_rate = 44_100
            timed.append((start / 44_100, frame))
            start += piece.shape[1]
        sound.take(iter(timed))
        return sound.waveform()

    whole = heard([np.concatenate(pieces, axis=1)])
    assert len(whole) > 0.9 * RATE * sum(piece.shape[1] for piece in pieces) / 44_100
    assert np.array_equal(heard(pieces), whole)


def test_only_the_window_is_decoded_and_the_whole_duration_told(tmp_path):
    clip = read_clip(write_media(tmp_path / "long.mp4", seconds=3), RATE, FRAMES, window=1.0)
    assert len(clip.waveform) == RATE and clip.duration == pytest.approx(3, abs=0.1)
    assert clip.frames[:, 32, 32].max() <= 2 * 25 + 3


def write_film(path, seconds=20, audio="aac", video="libx264", rate=RATE, **options):
    """Noise, which is nowhere like itself, and a picture that brightens by 1 every 0.1 s; a keyframe every 2 s."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, seconds * rate)).astype(np.float32)
    with av.open(str(path), "w", options=options) as container:
        if video:
            picture = container.add_stream(video, rate=10)
            picture.width = picture.height = 64
            picture.pix_fmt, picture.gop_size = "yuv420p", 20
        sound = container.add_stream(audio, rate=rate, layout="mono")
        for tenth in range(10 * seconds):  # interleaved, as a file must be whose middle is to be found
            if video:
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), tenth, np.uint8), format="rgb24")
                frame.pts = tenth
                container.mux(picture.encode(frame))
            part = noise[:, tenth * rate // 10 : (tenth + 1) * rate // 10]
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, tenth * rate // 10
            container.mux(sound.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))
    return path


FILMS = {
    "film.mp4": {},
    "fragmented.mp4": {"movflags": "frag_keyframe+delay_moov"},
    "film.mkv": {},
    "live.mkv": {"live": "1"},
    "film.webm": {"audio": "libopus", "video": "libvpx-vp9", "rate": 48000},
    "film.avi": {"audio": "libmp3lame", "video": "mpeg4"},
    "film.ts": {},
    "sound.mp3": {"audio": "libmp3lame", "video": None},
    "sound.aac": {"audio": "aac", "video": None},
    "sound.ogg": {"audio": "libopus", "video": None, "rate": 48000},
    "sound.flac": {"audio": "flac", "video": None},
    "sound.wav": {"audio": "pcm_s16le", "video": None},
}


@pytest.fixture(scope="module", params=FILMS)
def film(request, tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / request.param, **FILMS[request.param])


@pytest.mark.parametrize("stored", [False, True], ids=["file", "in_memory"])
def test_a_window_in_the_middle_is_what_decoding_from_the_beginning_gives(film, stored):
    path, name = film, film.name
    if stored:
        path = StoredFile(name, path.read_bytes())
    start = 12.34
    whole, part = read_clip(path, RATE, 200, 20.0), read_clip(path, RATE, FRAMES, 2.0, start=start)
    assert read_duration(path) == pytest.approx(20, abs=0.25)
    assert part.duration == pytest.approx(20, abs=0.5)  # of mp3 and aac a guess: the rest is not followed
    # Matroska counts milliseconds, and resampled sound may lie between two samples.
    lags, tolerance = (range(-16, 17), 0.1) if FILMS[name].get("rate", RATE) != RATE else ([0], 1e-3)
    expected = [whole.waveform[round(start * RATE) + lag :][: 2 * RATE] for lag in lags]
    assert min(np.abs(part.waveform - other).max() for other in expected) < tolerance
    if whole.frames is not None:
        tenths = [int(10 * (start + 2 * (part + 0.5) / FRAMES)) for part in range(FRAMES)]
        assert np.array_equal(part.frames, whole.frames[tenths])


@pytest.mark.parametrize("error", [RuntimeError("lost"), ValueError("lost"), IndexError("lost")], ids=repr)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    path = write_media(tmp_path / "strange.mp4", seconds=0.4)
    monkeypatch.setattr(av, "open", fail)
    for read in (lambda: read_clip(path, RATE, FRAMES, 1.0), lambda: read_duration(path)):
        with pytest.raises(MediaError, match=r"strange.mp4: cannot be decoded \(lost\); convert it"):
            read()


def test_a_window_is_cut_from_a_lossless_file_to_the_sample(tmp_path):
    samples = np.random.default_rng(0).integers(-9999, 9999, 8 * RATE).astype("<i2")
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    clip = read_clip(tmp_path / "long.wav", RATE, FRAMES, 2.0, start=4.5)
    assert np.array_equal(np.round(clip.waveform * 32768), samples[int(4.5 * RATE) : int(6.5 * RATE)])
    last = read_clip(tmp_path / "long.wav", RATE, FRAMES, 2.0, start=7.0)
    assert np.array_equal(np.round(last.waveform * 32768), samples[7 * RATE :])


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 16])
def test_sound_of_any_number_of_channels_is_averaged(tmp_path, channels):
    samples = np.random.default_rng(0).integers(-9999, 9999, (RATE, channels)).astype("<i2")
    with wave.open(str(tmp_path / "many.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    waveform = read(tmp_path / "many.wav").waveform
    assert waveform == pytest.approx(samples.mean(axis=1) / 32768, abs=1e-5)


def test_what_comes_before_a_window_is_not_decoded(tmp_path, monkeypatch):
    path, decoded = write_film(tmp_path / "film.mp4"), []
    take = Sound.take
    monkeypatch.setattr(
        Sound, "take", lambda sound, timed: take(sound, (decoded.append(each[1].time) or each for each in timed))
    )
    read_clip(path, RATE, FRAMES, 2.0, start=15.0)
    assert min(decoded) > 15 - 4 and max(decoded) < 15 + 3


def test_a_window_behind_the_end_is_refused_with_the_length(tmp_path):
    for name in ("film.mp4", "live.mkv", "film.ts", "sound.mp3"):
        path = write_film(tmp_path / name, seconds=3, **FILMS[name])
        with pytest.raises(MediaError, match=rf"{name}: lasts 3\.\d s and holds nothing from 9 s on"):
            read_clip(path, RATE, FRAMES, 2.0, start=9.0)


def test_a_clip_in_memory_is_called_by_its_name(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (8, 8), (7, 0, 0)).save(image, "png")
    assert read_images([StoredFile("a.png", image.getvalue())], [0, 0])[:, 0, 0, 0].tolist() == [7, 7]
    with pytest.raises(MediaError, match=r"row 4 of my data: not readable as media"):
        read(StoredFile("row 4 of my data", b"noise"))
    with pytest.raises(MediaError, match=r"b\.png: not a readable image"):
        read_images([StoredFile("b.png", b"noise")], [0])
    short = cut(write_media(tmp_path / "short.wav", audio="pcm_s16le", video=None)).read_bytes()
    with pytest.raises(MediaError, match=r"short: is cut short"):
        read(StoredFile("short", short))


@pytest.mark.parametrize(("audio", "video", "expected"), [("aac", None, "audio"), (None, "libx264", "video")])
def test_a_clip_may_lack_sound_or_picture(tmp_path, audio, video, expected):
    assert read(write_media(tmp_path / "clip.mp4", audio=audio, video=video)).modalities == expected


def test_a_record_sleeve_is_not_a_picture(tmp_path):
    song, sleeve = write_media(tmp_path / "song.flac", audio="flac", video=None), io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(sleeve, "png")
    # A FLAC picture block: type (front cover), MIME, description, width, height, depth, colours, data.
    picture = struct.pack(">II9sIIIIII", 3, 9, b"image/png", 0, 64, 64, 24, 0, len(sleeve.getvalue()))
    picture += sleeve.getvalue()
    data = song.read_bytes()
    start = 4 + 4 + 34  # marker, block header, stream information
    block = bytes([6]) + len(picture).to_bytes(3, "big") + picture
    song.write_bytes(data[:start] + block + data[start:])
    with av.open(str(song)) as container:
        assert len(container.streams.video) == 1
    assert read(song).modalities == "audio"


def test_late_sound_is_preceded_by_silence(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = index
            container.mux(picture.encode(frame))
        frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 8000, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, RATE  # sound begins after one second
        container.mux(sound.encode(frame))
    waveform = read(path).waveform
    assert np.flatnonzero(np.abs(waveform) > 0.1)[0] == pytest.approx(RATE, abs=100)


def test_frames_of_a_folder_are_taken_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(12):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"frame_{index}.png")
    clip = read(folder)
    assert clip.modalities == "video" and clip.duration is None
    assert clip.frames[:, 0, 0, 0].tolist() == [1, 3, 6, 8, 10]


def test_even_indices_are_centres_of_equal_parts():
    assert even_indices(20, 10) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert even_indices(1, 3) == [0, 0, 0]
    assert even_indices(3, 3) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------- bad input


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cut.mp4", {}),
        ("cut_fast.mp4", {"movflags": "faststart"}),
        ("cut.mkv", {}),
        ("cut.webm", CONTAINERS["webm"]),
        ("cut.wav", CONTAINERS["wav"]),
        ("cut.flac", CONTAINERS["flac"]),
    ],
)
def test_a_file_that_is_cut_short_is_refused(tmp_path, name, options):
    path = cut(write_media(tmp_path / name, seconds=3, **options))
    with pytest.raises(MediaError, match=rf"{name}: (is cut short|not readable as media).* copy (it|the file) again"):
        read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"nowhere\.mp4: no such file"):
        read(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("name", ["text.mp4", "notes.txt", "empty.mp4"])
def test_what_is_not_media_is_refused(tmp_path, name):
    (tmp_path / name).write_text("" if name == "empty.mp4" else "hello\n" * 100)
    reason = r"damaged \(it holds 0 bytes\)" if name == "empty.mp4" else "(is text, not media|not readable as media)"
    with pytest.raises(MediaError, match=rf"{name}: .*{reason}"):
        read(tmp_path / name)


def test_a_clip_of_zero_length_is_refused(tmp_path):
    with wave.open(str(tmp_path / "zero.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
    with pytest.raises(MediaError, match="is empty, 0 s of sound and picture"):
        read(tmp_path / "zero.wav")


@pytest.mark.parametrize(
    ("sample", "message"), [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (30_000, "samples up to 30000")]
)
def test_a_sound_file_of_samples_that_are_none_is_refused_by_name(tmp_path, sample, message):
    samples = np.sin(np.arange(RATE, dtype=np.float32))
    samples[5000] = sample
    path = tmp_path / "a.wav"
    write_floats(path, samples, RATE)
    with pytest.raises(MediaError, match=rf"a\.wav: its sound holds {message}"):
        read(path)
    np.testing.assert_allclose(read_clip(path, RATE, FRAMES, 0.25).waveform, samples[: RATE // 4])  # before it


def test_a_clip_with_neither_sound_nor_picture_is_refused(tmp_path):
    path = tmp_path / "words.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nrain falls\n")
    with pytest.raises(MediaError, match=r"holds neither sound nor picture \(found subtitle\)"):
        read(path)


def test_a_broadcast_may_change_its_form_within_the_stream(tmp_path):
    small, mono = write_media(tmp_path / "1.ts", rate=44100), write_media(tmp_path / "2.ts", rate=22050, size=32)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + mono.read_bytes())
    clip = read(joined)
    assert clip.frames.shape == (FRAMES, 64, 64, 3) and clip.modalities == "audio+video"


def test_a_relative_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    write_media(tmp_path / "2024-05-01T12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    assert read("2024-05-01T12:30:00.mp4").modalities == "audio+video"


def test_asking_for_sound_of_a_silent_film_is_an_error(tmp_path):
    path = write_media(tmp_path / "film.mp4", audio=None)
    with pytest.raises(MediaError, match=r"holds no sound \(found video\)"):
        read(path, video=False)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(MediaError, match="a folder without images"):
        list_images(tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"not an image")
    with pytest.raises(MediaError, match=r"1\.png: not a readable image"):
        read_images(list_images(tmp_path), [0, 1])


def test_frames_of_different_sizes_are_refused(tmp_path):
    for index, size in enumerate([(8, 8), (9, 8)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    with pytest.raises(MediaError, match=r"1\.png: 9x8 pixels among frames of 8x8"):
        read_images(list_images(tmp_path), [0, 1])


# ---------------------------------------------------------------------------------------------------------- arrays


def test_resampling_keeps_a_tone_and_its_length():
    time = np.arange(44100) / 44100
    tone = resample(np.sin(2 * np.pi * 1000 * time).astype(np.float32), 44100, RATE)
    assert len(tone) == RATE
    assert np.abs(np.fft.rfft(tone)).argmax() == 1000
    assert np.abs(tone[1000:-1000]).max() == pytest.approx(1, abs=0.01)


def test_channels_are_averaged_and_integers_scaled():
    assert to_mono(np.array([[1.0, 0.5, 0.25], [0.0, 0.5, 0.75]])).tolist() == [0.5, 0.5, 0.5]
    assert to_mono(np.array([16384, -32768], dtype=np.int16)).tolist() == [0.5, -1.0]
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\), expected \(samples,\)"):
        to_mono(np.zeros((1, 2, 3)))
