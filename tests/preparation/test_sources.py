"""What is read of people's data sets: rows, complaints about rows, and where the media of a clip are."""

import csv
import json

import pytest
from datasets import Audio, Dataset, DatasetDict

from lavcap.data.schema import DataError
from lavcap.preparation.annotations import read_annotations, stem_of
from lavcap.preparation.media import MediaFile
from lavcap.preparation.media_index import MediaIndex
from lavcap.preparation.sources import Reading, from_dataset, from_files, from_layout
from sources_captioning import StoredFile


OFFICIAL = "audiocap_id,youtube_id,start_time,caption\n"
READING = Reading(window=10.0)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def found(folder, clip="abc_-DEF_12", start=30.0, file=None):
    return MediaIndex([folder]).find(clip, file, start, window=10.0, num_frames=4)


# ------------------------------------------------------------------------------------------------------------- rows


def test_five_official_rows_are_one_clip_with_five_captions(tmp_path):
    rows = [
        ["103549", "7fmOlUlwoNg", "20", "Constant rattling noise and sharp vibrations"],
        ["108945", "7fmOlUlwoNg", "20", "A rocket engine, then silence"],
        ["107098", "7fmOlUlwoNg", "20", "A rocket engine, then silence"],
        ["103541", "-GOD8Bt5_fD", "100", "Humming and vibrating with a man and children speaking"],
    ]
    with (tmp_path / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([OFFICIAL.strip().split(","), *rows])
    clips = from_files(tmp_path / "test.csv", [tmp_path], READING).clips
    assert [(clip.id, clip.youtube_id, clip.start_time) for clip in clips] == [
        ("7fmOlUlwoNg", "7fmOlUlwoNg", 20.0),
        ("-GOD8Bt5_fD", "-GOD8Bt5_fD", 100.0),
    ]
    # Two annotators wrote the same: both are references.
    assert [len(clip.captions) for clip in clips] == [3, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", '\ufefffile_name,caption\r\nx.mp4,"rain, then\r\nwind"\r\ny.mp4,hail\r\n'),
        ("a.tsv", "file_name\tcaption\nx.mp4\train, then wind\ny.mp4\thail\n"),
        ("a.csv", "file_name\tcaption\nx.mp4\train, then wind\ny.mp4\thail\n"),
        ("a.json", json.dumps([{"id": "x", "captions": ["rain, then wind"]}, {"id": "y", "captions": "hail"}])),
        ("a.json", json.dumps({"x.mp4": {"captions": ["rain, then wind"]}, "y.mp4": {"captions": ["hail"]}})),
        ("a.json", json.dumps({"x.mp4": ["rain, then wind"], "y.mp4": "hail"})),
        ("a.json", json.dumps({"data": [{"id": "x", "caption": "rain, then wind"}, {"id": "y", "caption": "hail"}]})),
        ("a.jsonl", '{"file": "x.mp4", "text": "rain, then wind"}\n\n{"file": "y.mp4", "text": "hail"}\n'),
    ],
)
def test_captions_of_every_form_are_read(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    clips = from_files(tmp_path / name, [tmp_path], READING).clips
    assert {clip.id: clip.captions for clip in clips} == {"x": ["rain, then wind"], "y": ["hail"]}


def test_all_bad_rows_are_listed_with_line_and_reason(tmp_path):
    path = tmp_path / "bad.csv"
    bad = [
        (b"2,,10,rain falls", "line 3: no id"),
        (b"3,idA,10,", "line 4: no caption"),
        (b"4,idB,ten,rain", "line 5: start_time is 'ten'"),
        (b"5,idC,-3,rain", "line 6: start_time is -3"),
        (b"6,idD,nan,rain", "line 7: start_time is nan"),
        (b"7,idE,10,rain,wind", "line 8: has 5 fields, expected 4"),
        (b"8,idF,10,caf\xe9", "line 9: holds bytes that are no UTF-8"),
        (b"1,idG,10,another clip", "line 10: has the id 1 of line 2 with other data"),
        (b'9,idH,10,"open', "line 11: cannot be read"),
    ]
    path.write_bytes(OFFICIAL.encode() + b"1,idZ,10,good\n" + b"\n".join(line for line, _ in bad))
    with pytest.raises(DataError, match="9 of 10 rows cannot be used; mend them, or pass --skip_bad_rows") as caught:
        from_files(path, [tmp_path], READING)
    for _, reason in bad:
        assert reason in str(caught.value)
    source = from_files(path, [tmp_path], Reading(10.0, skip_bad_rows=True))
    assert [clip.id for clip in source.clips] == ["idZ"] and len(source.annotations.complaints) == 9


@pytest.mark.parametrize(
    ("header", "lines", "kept"),
    [
        (OFFICIAL, ["1,idA,10,rain falls", "and wind blows", "2,idB,10,hail"], ["hail"]),
        (OFFICIAL, ["1,idA,10,rain falls", "", "and wind", "blows", "2,idB,10,hail"], ["hail"]),
        (OFFICIAL, ["1,idA,10,rain falls", "and wind, hail, snow, sleet, ice", "2,idB,10,hail"], ["hail"]),
        (OFFICIAL, ["1,idA,10,rain falls", "2,idB,10", "3,idC,10,hail"], ["rain falls", "hail"]),
        (OFFICIAL, ["1,idA,10,rain falls", "2,idB,10,hail, snow", "3,idC,10,ice"], ["rain falls", "ice"]),
        (OFFICIAL, ["1,idA,10,rain falls", "2,idB", "and wind", "3,idC,10,ice"], ["rain falls", "ice"]),
        ("file,caption\n", ["a.wav,rain falls", "and wind blows", "b.wav,hail"], ["hail"]),
        ("file,caption\n", ["a.wav,rain falls", "b.wav,hail, snow", "c.wav,ice"], ["rain falls", "ice"]),
    ],
)
def test_half_of_a_caption_that_a_line_break_cut_is_not_kept(tmp_path, header, lines, kept):
    path = tmp_path / "a.csv"
    path.write_text(header + "\n".join(lines) + "\n")
    known = read_annotations(path)
    assert [row.captions for row in known.rows] == [(caption,) for caption in kept]
    if "rain falls" not in kept:
        rest = 2 + next(number for number, line in enumerate(lines) if line.startswith("and"))
        assert known.complaints[0].startswith(f"line 2: goes on in line {rest}; put a caption with a line break into")
        assert known.complaints[1].startswith(f"line {rest}: has ")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"1,idA,30,rain\n", "no header line, its first line is '1,idA,30,rain'; put one above it"),
        ("a.csv", b"who,what\nx,rain\n", r"no column of captions \(found who, what\); name it with --column"),
        ("a.csv", "file,caption\nx,rain".encode("utf-16"), "is UTF-16, expected UTF-8"),
        ("a.csv", "file,caption\nx,rain".encode("utf-32"), "is UTF-32, expected UTF-8"),
        ("a.csv", b"", "no column of captions"),
        ("a.csv", b"file,caption\n", "none of its 0 rows can be used"),
        ("a.json", b"{", "not readable as JSON"),
        ("a.json", b"3", "holds a int, expected a list"),
        ("a.xlsx", b"", r"ends with '\.xlsx', expected one of \.json, \.jsonl, \.csv, \.tsv"),
    ],
)
def test_a_file_that_is_not_of_captions_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        from_files(tmp_path / name, [tmp_path], READING)


def test_a_column_may_have_any_name(tmp_path):
    (tmp_path / "a.csv").write_text("clip,sentence\nx.wav,rain\n")
    rows = read_annotations(tmp_path / "a.csv", {"file": "clip", "caption": "sentence"}).rows
    assert (rows[0].file, rows[0].captions) == ("x.wav", ("rain",))
    with pytest.raises(DataError, match=r"has no column 'words' \(found clip, sentence\); check --column"):
        read_annotations(tmp_path / "a.csv", {"caption": "words"})
    with pytest.raises(DataError, match="--column colour=…: unknown"):
        read_annotations(tmp_path / "a.csv", {"colour": "clip"})


def test_repeated_rows_count_once(tmp_path):
    (tmp_path / "a.csv").write_text(f"{OFFICIAL}1,idA,0,rain\n2,idA,0,rain\n1,idA,0,rain\n")
    known = read_annotations(tmp_path / "a.csv")
    assert [row.annotation for row in known.rows] == ["1", "2"]
    assert [reason for _, reason in known.repeated] == ["line 4 repeats line 2"]
    (tmp_path / "b.csv").write_text("file,caption\nx.wav,rain\nx.wav,rain\n")
    assert len(read_annotations(tmp_path / "b.csv").rows) == 1


def test_one_id_with_two_start_times_is_two_clips(tmp_path):
    (tmp_path / "a.csv").write_text(f"{OFFICIAL}1,idA,0,rain\n2,idA,40,wind\n3,idB,5,hail\n")
    source = from_files(tmp_path / "a.csv", [touch(tmp_path, "idA_40000_50000.mp4")], READING)
    assert [clip.id for clip in source.clips] == ["idA_0_10000", "idA_40000_50000", "idB"]
    assert [source.find(clip, 10.0, 4).video is not None for clip in source.clips] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "message", "kept"),
    [
        (
            "id,file,caption\nA,late.mp4,y\nB,b.mp4,x\nA,base.mp4,z\nA,./late.mp4,w\n",
            "line 4: has the id A of line 2 with other media (base.mp4, not late.mp4); give each clip its own id",
            {"A": ["y", "w"], "B": ["x"]},
        ),
        (
            "id,start_time,caption\nA,,y\nA,40,z\nB,,x\nB,,w\n",
            "line 2: has the id A of line 3, but no start_time; give both of them one, or none",
            {"A": ["z"], "B": ["x", "w"]},
        ),
        (
            "file,caption\na/1.wav,y\na/1.mp4,z\n",
            "line 3: has the id a/1 of line 2 with other media (a/1.mp4, not a/1.wav); give each clip its own id",
            {"1": ["y"]},
        ),
    ],
)
def test_rows_of_one_id_that_are_of_two_clips_are_bad_rows(tmp_path, text, message, kept):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError) as refused:
        from_files(tmp_path / "a.csv", [tmp_path], READING)
    assert str(refused.value).splitlines()[1:] == [f"  {message}"]
    source = from_files(tmp_path / "a.csv", [tmp_path], Reading(10.0, skip_bad_rows=True))
    assert {clip.id: clip.captions for clip in source.clips} == kept
    assert source.annotations.complaints == [message]


def test_rows_of_the_layout_and_of_data_sets_are_held_to_the_same(tmp_path):
    row = {"youtube_id": "A", "caption": "rain", "audio_path": "a.wav", "video_path": "a.jpg"}
    (tmp_path / "test.json").write_text(json.dumps([row, row | {"caption": "wind"}, row | {"video_path": "b.jpg"}]))
    with pytest.raises(
        DataError, match="1 of 3 rows cannot be used.*\n  row 2: has the id A of row 0 with other media;"
    ):
        from_layout(tmp_path, "test", READING)
    columns = stored_rows()
    columns["youtube_id"], columns["start_time"] = ["id0"] * 3, [0] * 3
    columns["audio"][1]["bytes"] = columns["audio"][0]["bytes"]  # the same under another name
    to_audio(columns).save_to_disk(tmp_path / "set")
    with pytest.raises(
        DataError, match="1 of 3 rows cannot be used.*\n  row 2: has the id id0 of row 0 with other media;"
    ):
        from_dataset(str(tmp_path / "set"), "test", [], READING)


def test_equal_names_in_different_folders_are_different_clips(tmp_path):
    (tmp_path / "a.csv").write_text("file,caption\na/1.mp4,rain\nb/1.mp4,wind\n2.mp4,hail\n")
    source = from_files(tmp_path / "a.csv", [touch(tmp_path, "a/1.mp4", "b/1.mp4", "b/2.mp4")], READING)
    assert [clip.id for clip in source.clips] == ["a/1", "b/1", "2"]
    films = [source.find(clip, 10.0, 4).video.path for clip in source.clips]
    assert films == [str(tmp_path / name) for name in ("a/1.mp4", "b/1.mp4", "b/2.mp4")]


def test_a_dot_in_a_name_is_no_suffix():
    assert [stem_of(name) for name in ("a/b.c.mp4", "take 2.5", "x\\y.wav", "plain")] == [
        "b.c",
        "take 2.5",
        "y",
        "plain",
    ]


# ------------------------------------------------------------------------------------------------------------ media


@pytest.mark.parametrize("name", ["abc_-DEF_12_30000_40000.mp4", "Yabc_-DEF_12.mp4", "deep/er/abc_-DEF_12.mp4"])
def test_a_clip_is_found_under_each_of_its_names(tmp_path, name):
    film = found(touch(tmp_path, name)).video
    assert film.path == str(tmp_path / name)
    assert film.named == ((30.0, 40.0) if "40000" in name else None)


def test_sound_and_picture_may_come_from_two_files(tmp_path):
    media = found(touch(tmp_path, "waveforms/abc_-DEF_12.wav", "videos/abc_-DEF_12.mp4"))
    assert media.audio.path.endswith(".wav") and media.video.path.endswith(".mp4") and not media.others


def test_a_file_with_another_window_is_that_clip_only_if_it_holds_it(tmp_path):
    assert found(touch(tmp_path, "abc_-DEF_12_20000_50000.mp4")).video.named == (20.0, 50.0)
    media = found(touch(tmp_path / "b", "abc_-DEF_12_60000_70000.mp4"))
    assert media.video is None
    assert media.reason == "only abc_-DEF_12_60000_70000, which does not hold 30-40 s"


def test_ids_that_begin_alike_or_differ_in_case_are_told_apart(tmp_path):
    touch(tmp_path, "abc_1_2.mp4", "ABC_1_2.mp4", "_-x_10_20_30000_40000.mp4", "._abc.mp4")
    assert found(tmp_path, clip="abc").video is None
    assert found(tmp_path, clip="ABC_1_2").video.path.endswith("/ABC_1_2.mp4")
    assert found(tmp_path, clip="_-x_10_20").video.named == (30.0, 40.0)


def test_of_several_files_the_most_exact_is_used_and_the_others_are_named(tmp_path):
    touch(tmp_path, "a/abc_-DEF_12.mp4", "b/abc_-DEF_12_30000_40000.mp4", "c/Yabc_-DEF_12.mkv")
    media = found(tmp_path)
    assert media.video == MediaFile(str(tmp_path / "b/abc_-DEF_12_30000_40000.mp4"), (30.0, 40.0))
    assert [(other.rpartition("/")[2], used) for other, used in media.others] == [
        ("abc_-DEF_12.mp4", media.video.path),
        ("Yabc_-DEF_12.mkv", media.video.path),
    ]


def test_frames_are_found_in_both_forms_and_taken_evenly(tmp_path):
    touch(tmp_path, *(f"frames/frame_{index}/abc_-DEF_12_30000_40000.jpg" for index in range(20)))
    frames = found(touch(tmp_path, "abc_-DEF_12_30000_40000.wav")).frames
    assert [path.split("/")[-2] for path in frames] == ["frame_2", "frame_7", "frame_12", "frame_17"]
    touch(tmp_path / "loose", *(f"abc_-DEF_12/{index}.png" for index in range(11)))
    frames = found(touch(tmp_path / "loose", "abc_-DEF_12.wav")).frames
    assert [path.split("/")[-1] for path in frames] == ["1.png", "4.png", "6.png", "9.png"]


def test_a_frame_that_is_not_there_is_named(tmp_path):
    touch(tmp_path, *(f"frames/frame_{index}/{name}.jpg" for index in range(3) for name in ("abc_-DEF_12", "other")))
    (tmp_path / "frames/frame_1/abc_-DEF_12.jpg").unlink()
    media = found(touch(tmp_path, "abc_-DEF_12.wav"))
    assert media.frames is None and media.reason.endswith("frames/frame_1/abc_-DEF_12.jpg: no such file")


def test_links_that_lead_in_circles_end(tmp_path):
    touch(tmp_path, "a/abc_-DEF_12.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "nowhere.mp4").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    media = found(tmp_path)
    assert media.video.path == str(tmp_path / "a/abc_-DEF_12.mp4") and not media.others


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        MediaIndex([tmp_path / "nowhere"])


def test_the_released_layout_gives_all_references(toy_world):
    source = from_layout(toy_world, "test", READING)
    rows = json.loads((toy_world / "test.json").read_text())
    assert [clip.id for clip in source.clips] == [row["youtube_id"] for row in rows]
    for clip in source.clips:
        media = source.find(clip, 4.0, 20)
        assert len(clip.captions) == 5 and media.audio.path.endswith(".wav") and len(media.frames) == 20
    with pytest.raises(DataError, match=r"no dev\.json or dev\.csv; check --data_dir and --split"):
        from_layout(toy_world, "dev", READING)


# -------------------------------------------------------------------------------------------------------- data sets


def stored_rows(count=3):
    """Columns as mteb/AudioCaps_AV has them, with five captions of the first clip in rows of their own."""
    return {
        "audio": [{"bytes": bytes([index]) * 9, "path": f"{index}.wav"} for index in range(count)],
        "youtube_id": [f"id{index}" for index in range(count)],
        "start_time": [10 * index for index in range(count)],
        "caption": [f"caption {index}" for index in range(count)],
    }


def to_audio(columns):
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))


@pytest.mark.parametrize("form", ["one_split", "several_splits", "parquet"])
def test_a_data_set_on_disk_is_read_without_decoding(tmp_path, form):
    dataset = to_audio(stored_rows())
    if form == "one_split":
        dataset.save_to_disk(tmp_path / "set")
    elif form == "several_splits":
        DatasetDict(validation=dataset, train=to_audio(stored_rows(1))).save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        dataset.to_parquet(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet")
    source = from_dataset(str(tmp_path / "set"), "val", [], READING)
    assert [(clip.id, clip.start_time, clip.captions) for clip in source.clips][1] == ("id1", 10.0, ["caption 1"])
    assert source.columns == {"audio": "audio"}
    stored = source.read_stored(source.clips[2].number)
    assert stored["audio"] == StoredFile(stored["audio"].name, bytes([2]) * 9) and "row 2, 2.wav" in str(
        stored["audio"]
    )


def test_rows_without_ids_are_joined_by_the_name_of_their_sound(tmp_path):
    columns = stored_rows(2)
    columns["audio"] = [columns["audio"][0] | {"path": "Yabc.wav"}] * 2
    to_audio({"audio": columns["audio"], "answer": ["rain", "wind"]}).save_to_disk(tmp_path / "set")
    (clip,) = from_dataset(str(tmp_path / "set"), "test", [], READING).clips
    assert (clip.id, clip.captions, clip.number) == ("Yabc", ["rain", "wind"], 0)


def test_text_of_a_data_set_goes_with_a_folder_of_media(tmp_path):
    columns = {name: column for name, column in stored_rows().items() if name != "audio"}
    columns["caption"] = [["rain", "wind"]] * 3
    Dataset.from_dict(columns).save_to_disk(tmp_path / "set")
    source = from_dataset(str(tmp_path / "set"), "test", [touch(tmp_path / "media", "Yid1.wav")], READING)
    assert source.find(source.clips[1], 10.0, 4).audio.path.endswith("Yid1.wav")
    assert source.clips[1].captions == ["rain", "wind"]
    with pytest.raises(DataError, match="no column of sound or video .found youtube_id, start_time, caption"):
        from_dataset(str(tmp_path / "set"), "test", [], READING)


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path):
    DatasetDict(test=to_audio(stored_rows())).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="has no split 'train', expected one of test"):
        from_dataset(str(tmp_path / "set"), "train", [], READING)
    with pytest.raises(DataError, match=r"nobody/nothing: cannot be loaded as a data set \(.*; check --dataset"):
        from_dataset("nobody/nothing", "train", [], READING)


def test_a_column_of_paths_is_a_column_of_media(tmp_path):
    Dataset.from_dict({"caption": ["rain"], "audio": [__file__]}).save_to_disk(tmp_path / "set")
    assert from_dataset(str(tmp_path / "set"), "train", [], READING).columns == {"audio": "audio"}


def test_semicolons_are_named(tmp_path):
    (tmp_path / "train.csv").write_text("youtube_id;caption\nabc;rain\n")
    with pytest.raises(DataError, match="if semicolons separate its columns, use commas"):
        read_annotations(tmp_path / "train.csv")
