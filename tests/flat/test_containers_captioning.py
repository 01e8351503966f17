"""Containers as they are met: clocks, tracks, damage, and files that would cost more than a clip may."""

import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from media_files import write_media
from PIL import Image

import bounds_captioning
import containers_captioning
from containers_captioning import _codec_name
from media_captioning import read_clip, read_duration
from sources_captioning import MediaError, StoredFile


RATE, FRAMES, WINDOW = 16000, 5, 10.24
MARKS = av.stream.Disposition


def read(path, **options):
    return read_clip(path, RATE, FRAMES, WINDOW, **options)


def frequency(waveform: np.ndarray, start: float, end: float) -> float:
    """Loudest frequency of some seconds, in Hz."""
    part = waveform[round(start * RATE) : round(end * RATE)]
    return np.abs(np.fft.rfft(part)).argmax() * RATE / len(part)


def sine(frequency: float, seconds: float, rate: int = 48000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_flash(path, lead=0.0, hole=None, grey=lambda time: 10 + 40 * time, times=None, seconds=4.0, **codecs):
    """A picture that brightens, and a tone of 440 Hz, from 2.5 s on of 1760 Hz.

    Args:
        lead: what all clocks begin at.
        hole: seconds of sound that are left out, from when to when.
        times: of the frames; default: 25 a second.
    """
    rate = 48000
    tone = np.concatenate([sine(440, 2.5), sine(1760, seconds - 2.5)])
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codecs.get("video", "libx264"), rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt, picture.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        sound = container.add_stream(codecs.get("audio", "aac"), rate=rate, layout="mono")
        packets = []
        for time in times or np.arange(0, seconds, 0.04):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), grey(time), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * (time + lead)), Fraction(1, 1000)
            packets += picture.encode(frame)
        for start in range(0, len(tone), 960):
            if hole and hole[0] <= start / rate < hole[1]:
                continue
            part = tone[None, start : start + 960]
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start + round(lead * rate)
            packets += sound.encode(frame)
        packets += [*picture.encode(None), *sound.encode(None)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


# ----------------------------------------------------------------------------------------------------------- clocks


CODECS = {"webm": {"video": "libvpx-vp9", "audio": "libopus"}, "avi": {"video": "mpeg4", "audio": "libmp3lame"}}


@pytest.mark.parametrize("lead", [0.0, 10.0])
@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "ts"])
def test_tone_and_picture_stay_together_wherever_the_clock_begins(tmp_path, suffix, lead):
    path = write_flash(tmp_path / f"recorded.{suffix}", lead, **CODECS.get(suffix, {}))
    clip = read(path)
    assert clip.duration == pytest.approx(4, abs=0.15) == read_duration(path)
    times = (clip.frames[:, 32, 32].mean(axis=-1) - 10) / 40
    assert times == pytest.approx((np.arange(FRAMES) + 0.5) * 4 / FRAMES, abs=0.15)
    assert frequency(clip.waveform, 2.2, 2.42) == pytest.approx(440, abs=10)
    assert frequency(clip.waveform, 2.58, 3.0) == pytest.approx(1760, abs=10)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "webm"])
def test_a_hole_in_the_sound_is_silence_and_what_follows_is_in_time(tmp_path, suffix):
    whole = write_flash(tmp_path / f"whole.{suffix}", **CODECS.get(suffix, {}))
    path = tmp_path / f"gap.{suffix}"
    with av.open(str(whole)) as film, av.open(str(path), "w") as copy:
        streams = {stream: copy.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.dts is None:
                continue
            lost = packet.stream.type == "audio" and 1.0 <= packet.pts * packet.time_base - film.start_time / 1e6 < 1.6
            if not lost:
                packet.stream = streams[packet.stream]
                copy.mux(packet)
    clip = read(path)
    assert np.abs(clip.waveform[round(1.15 * RATE) : round(1.5 * RATE)]).max() < 1e-3
    assert frequency(clip.waveform, 1.8, 2.4) == pytest.approx(440, abs=5)
    assert frequency(clip.waveform, 2.6, 3.5) == pytest.approx(1760, abs=5)
    assert clip.notes[0].startswith("lacks 0.6") and "s of sound from 1.0" in clip.notes[0]


def test_recordings_that_were_put_one_behind_the_other_are_heard_and_seen_so(tmp_path):
    write_flash(tmp_path / "1.ts"), write_flash(tmp_path / "2.ts", lead=100, grey=lambda time: 210 - 40 * time)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("2.ts", "1.ts")))
    clip = read_clip(joined, RATE, 8, 8.0)
    assert clip.duration == pytest.approx(8, abs=0.3)
    bright = clip.frames[:, 32, 32].mean(axis=-1)
    assert bright == pytest.approx([190, 150, 110, 70, 30, 70, 110, 150], abs=15)
    heard = [frequency(clip.waveform, start, start + 0.5) for start in (1, 3, 5.2, 7)]
    assert heard == pytest.approx([440, 1760, 440, 1760], abs=10)


def test_frames_at_uneven_times_last_as_long_as_the_container_says(tmp_path):
    times = [*np.arange(0, 1, 0.04), *np.arange(4, 5, 0.04)]
    path = write_flash(tmp_path / "recording.mov", times=times, seconds=5.0)
    clip = read(path)
    assert clip.duration == pytest.approx(5, abs=0.1) == read_duration(path)
    seen = (clip.frames[:, 32, 32].mean(axis=-1) - 10) / 40  # at 0.5, 1.5, 2.5, 3.5, 4.5 s
    assert seen == pytest.approx([0.5, 0.96, 0.96, 0.96, 4.48], abs=0.12)


def test_sound_that_begins_after_the_window_is_missing_and_costs_nothing(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = index
            container.mux(picture.encode(frame))
        frame = av.AudioFrame.from_ndarray(np.full((1, 800), 8000, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 40_000 * 8000
        container.mux(sound.encode(frame))
    assert read(path).modalities == "video"


# ----------------------------------------------------------------------------------------------------------- tracks


def write_tracks(path, *tracks: tuple[float, int], video: bool = True, **described):
    """Tracks of a frequency in Hz (0: silence), each with its disposition."""
    with av.open(str(path), "w") as container:
        if video:
            picture = container.add_stream("libx264", rate=25)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        sounds = [container.add_stream("aac", rate=48000, layout="mono") for _ in tracks]
        for sound, (_, disposition) in zip(sounds, tracks, strict=True):
            sound.disposition = getattr(disposition, "value", disposition)
        packets = []
        for index in range(50 if video else 0):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts = index
            packets += picture.encode(frame)
        packets += picture.encode(None) if video else []
        for sound, (hertz, _) in zip(sounds, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(sine(hertz, 2)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            packets += [*sound.encode(frame), *sound.encode(None)]
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("tracks", "heard", "note"),
    [
        ([(440, 0), (1760, MARKS.default)], 1760, "number 2, the default one, is taken"),
        ([(440, MARKS.default), (1760, 0)], 440, "number 1, the default one, is taken"),
        ([(440, MARKS.visual_impaired | MARKS.default), (1760, 0)], 1760, "number 2 is taken"),
    ],
    ids=["the second is default", "the first is default", "the first describes the picture"],
)
def test_the_default_track_is_heard_but_never_a_description(tmp_path, tracks, heard, note):
    clip = read(write_tracks(tmp_path / "tracks.mkv", *tracks))
    assert frequency(clip.waveform, 0.2, 1.8) == pytest.approx(heard, abs=5)
    assert f"holds 2 tracks of sound, of which {note}" in clip.notes


def test_silence_of_a_chosen_track_is_said(tmp_path):
    clip = read(write_tracks(tmp_path / "silent.mp4", (0, MARKS.default), (440, 0)))
    assert clip.notes[1:] == ("is silent there",)
    assert read(write_tracks(tmp_path / "one.mp4", (440, MARKS.default))).notes == ()


def renamed(path, **codecs: str):
    """A film whose container calls codecs by other names."""
    data = path.read_bytes()
    for name, other in codecs.items():
        data = data.replace(name.encode(), other.encode())
    path.write_bytes(data)
    return path


def test_a_track_that_nothing_decodes_costs_that_track_alone_and_is_named(tmp_path):
    clip = read(renamed(write_media(tmp_path / "film.mp4"), avc1="zzz1"))
    assert clip.modalities == "audio" and clip.notes == (
        "holds picture that no decoder here knows (zzz1), which is left out",
    )
    with pytest.raises(
        MediaError, match=r"no picture \(found audio, video, picture that no decoder here knows \(zzz1"
    ):
        read(tmp_path / "film.mp4", audio=False)
    spoken = write_tracks(tmp_path / "two.mp4", (440, MARKS.default), (1760, 0), video=False)
    data = spoken.read_bytes()
    spoken.write_bytes(data.replace(b"mp4a", b"apcc", 1).replace(b"esds", b"essd", 1))
    assert frequency(read(spoken).waveform, 0.2, 1.8) == pytest.approx(1760, abs=5)


def test_channels_that_cancel_are_said_to(tmp_path):
    path = tmp_path / "antiphase.wav"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
        wave = np.stack([sine(440, 1, RATE), -sine(440, 1, RATE)])
        frame = av.AudioFrame.from_ndarray((wave * 32767).T.astype(np.int16).reshape(1, -1), "s16", "stereo")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(sound.encode(frame))
    assert "channels that cancel each other" in read(path).notes[0]
    first = read(path, channels="first")
    assert first.notes == () and frequency(first.waveform, 0, 1) == pytest.approx(440, abs=2)


# ----------------------------------------------------------------------------------------------------------- damage


def damaged(path, start: float, end: float, seed: int = 0):
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    data[first:last] = np.random.default_rng(seed).bytes(last - first)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["mp3", "aac", "opus", "mka", "ts", "mp4"])
def test_some_damage_costs_some_seconds_and_is_said(tmp_path, suffix):
    options = {
        "mp3": {"audio": "libmp3lame"},
        "opus": {"audio": "libopus"},
        "mka": {"audio": "libopus", "cluster_time_limit": "300"},
    }.get(suffix, {})
    video = None if suffix in ("mp3", "aac", "opus", "mka") else "libx264"
    path = damaged(write_media(tmp_path / f"a.{suffix}", seconds=4, video=video, rate=48000, **options), 0.3, 0.36)
    clip = read(path)
    assert clip.notes and all(note.startswith("lacks ") or "cannot be decoded" in note for note in clip.notes)
    assert np.abs(clip.waveform).max() < 1.5
    assert frequency(clip.waveform, 3.0, 3.8) == pytest.approx(440, abs=5)


def test_words_of_another_code_cost_nothing(tmp_path):
    path = write_media(tmp_path / "a.mp4", seconds=1)
    data = path.read_bytes()
    place = data.index(b"SoundHandler")
    path.write_bytes(data[:place] + b"S\xf6undHandl\xe9r"[:12] + data[place + 12 :])
    assert read(path).modalities == "audio+video" and read(path).notes == ()


def test_more_damage_than_that_is_refused(tmp_path):
    path = damaged(write_media(tmp_path / "a.mp4", seconds=4), 0.1, 0.6)
    with pytest.raises(MediaError, match=r"a\.mp4: \d+ of \d+ packets of its (sound|picture) cannot be decoded"):
        read(path)


def test_sounds_that_were_put_one_behind_the_other_are_heard(tmp_path):
    one = write_media(tmp_path / "one.mp3", seconds=2, audio="libmp3lame", video=None).read_bytes()
    (tmp_path / "joined.mp3").write_bytes(one + one)
    clip = read(tmp_path / "joined.mp3")
    assert len(clip.waveform) / RATE == pytest.approx(4, abs=0.15) and len(clip.notes) == 1
    assert frequency(clip.waveform, 1.2, 1.9) == frequency(clip.waveform, 3.3, 3.9) == pytest.approx(440, abs=5)


def test_a_last_packet_that_is_cut_is_left_out(tmp_path):
    path = write_media(tmp_path / "cut.aac", seconds=2, video=None)
    path.write_bytes(path.read_bytes()[:-40])
    clip = read(path)
    assert len(clip.waveform) / RATE == pytest.approx(2, abs=0.1) and "1 of " in clip.notes[0]


# ----------------------------------------------------------------------------------------------------------- bounds


def test_nothing_but_the_bytes_of_a_file_is_read(tmp_path, monkeypatch):
    """Texts that would have FFmpeg open ports and files, under any name, on disk and in memory."""

    def refused(*args, **options):
        raise AssertionError("a socket")

    write_media(tmp_path / "secret.wav", audio="pcm_s16le", video=None)
    texts = {
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "list.ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "film.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "text.txt": "rain falls\n" * 20,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refused)
    for name, text in texts.items():
        for called in (name, "clip.mp4"):
            (tmp_path / called).write_text(text)
            for medium in (tmp_path / called, StoredFile(called, text.encode())):
                with pytest.raises(MediaError, match="not readable as media, or damaged"):
                    read(medium)


def test_a_quick_time_reference_to_another_file_is_not_followed(tmp_path, monkeypatch):
    secret = write_media(tmp_path / "secret.mov", seconds=1, audio=None)
    data = bytearray(secret.read_bytes())
    # `url ` with flag 1: the data are in this file. An alias names another one.
    place = data.index(b"url \0\0\0\1")
    data[place : place + 8] = b"url \0\0\0\0"
    (tmp_path / "reference.mov").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(os, "open", lambda *args, **options: opened.append(args))
    assert read(tmp_path / "reference.mov").modalities == "video" and not opened


def test_pipes_and_devices_are_refused_before_they_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero", "/dev/stdin"):
        with pytest.raises(MediaError, match="a pipe or a device|a folder|no such file"):
            read(path)


def test_an_endless_file_is_given_up_or_heard_as_far_as_it_goes(tmp_path):
    empty, sound = tmp_path / "empty.mp3", tmp_path / "sound.mp3"
    write_media(sound, seconds=2, audio="libmp3lame", video=None)
    for path in (empty, sound):
        with path.open("ab") as file:
            file.truncate(10 * 2**30)  # sparse
    with pytest.raises(MediaError, match=r"empty\.mp3: holds many MiB without sound or picture"):
        read(empty)
    assert len(read(sound).waveform) / RATE == pytest.approx(2, abs=0.1)


def test_a_clip_has_its_time(tmp_path, monkeypatch):
    path = write_media(tmp_path / "film.mp4", seconds=1)
    monkeypatch.setattr(bounds_captioning, "CLIP_SECONDS", -1)
    with pytest.raises(MediaError, match=r"film\.mp4: takes more than -1 s to read and decode"):
        read(path)


def wav_header(rate: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2 % 2**32, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", 3200) + bytes(3200)
    return struct.pack("<4sI", b"RIFF", len(body)) + body


@pytest.mark.parametrize("rate", [1_979_727_488, 1_000_001, 999])
def test_a_sampling_rate_that_no_sound_has_is_refused_by_the_header(rate):
    with pytest.raises(MediaError, match=f"r.wav: declares {rate:,} samples per second, expected 1,000 to 1,000,000"):
        read(StoredFile("r.wav", wav_header(rate)))
    assert read(StoredFile("r.wav", wav_header(1_000))).modalities == "audio"


def wide_gif(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return screen + image * 3 + b";"


def test_a_picture_larger_than_the_bound_is_refused_by_the_header():
    with pytest.raises(MediaError, match="a picture of no pixels, or of more than 89,478,485"):
        read(StoredFile("wide.gif", wide_gif(16000, 16000)))
    with pytest.raises(MediaError, match="has 4000x8 pixels, expected at most 100 times as many one way"):
        read(StoredFile("strip.gif", wide_gif(4000, 8)))
    assert read(StoredFile("small.gif", wide_gif(40, 8))).frames.shape == (FRAMES, 8, 40, 3)


def test_one_frame_that_is_shown_for_long_is_converted_once(tmp_path, monkeypatch):
    import windows_captioning

    converted = []
    real = windows_captioning.frame_to_rgb
    monkeypatch.setattr(windows_captioning, "frame_to_rgb", lambda *args: converted.append(1) or real(*args))
    still = tmp_path / "still.gif"
    Image.new("RGB", (32, 32), "red").save(
        still, save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")], duration=4000
    )
    assert len(read_clip(still, RATE, 20, 8.0).frames) == 20 and len(converted) == 2


def test_every_opening_goes_through_one_function():
    from conftest import FLAT_FILES, ROOT

    files = (*FLAT_FILES, *(ROOT / "lavcap").rglob("*.py"), *(ROOT / "scripts").glob("*.py"))
    for file in (each for each in files if each.parent.name != "benchmarks"):  # which compare with others' ways
        code = file.read_text()
        reads = "av.open(" in code and '"w"' not in code
        assert not reads or file.name == "containers_captioning.py", file
        assert "Image.open(" not in code or file.name == "pictures_captioning.py", file
    assert set(containers_captioning.FORMATS).isdisjoint({"hls", "dash", "concat", "sdp", "rtsp", "image2", "tty"})


@pytest.mark.parametrize("codec", ["aac", "libopus", "flac"])
@pytest.mark.parametrize("layout", ["5.1", "7.1"])
def test_sound_around_is_heard(tmp_path, codec, layout):
    """Of 8 channels in planes PyAV counts nine."""
    channels, name = sum(map(int, layout.split("."))), tmp_path / "a.mka"
    with av.open(str(name), "w") as container:
        sound = container.add_stream(codec, rate=48000, layout=layout)
        samples = np.repeat(sine(440, 1, 48000).astype(np.float32)[:, None], channels, axis=1)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    clip = read_clip(name, 16000, 4, 10.0)
    found = np.abs(np.fft.rfft(clip.waveform[1000:15000])).argmax() * 16000 / 14000
    assert abs(found - 440) < 2 and abs(clip.duration - 1) < 0.1


def test_codecs_that_are_named_at_once_leave_the_log_as_it_was():
    class Container:
        def dumps_format(self) -> str:
            time.sleep(0.05)
            return "Stream #0:0: Video: none (zzz1 / 0x317A7A7A)"

    before = av.logging.get_level()
    with ThreadPoolExecutor(3) as threads:
        names = list(threads.map(_codec_name, [Container()] * 3, [SimpleNamespace(index=0)] * 3))
    assert names == ["zzz1"] * 3 and av.logging.get_level() == before
