"""Fixtures: a tiny model and processor, a tiny toy world, and media files of every kind. Nothing is downloaded."""

import os
import struct
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"

import av
import library_tests
import numpy as np
import pytest
import torch

from configuration_lavcap import LavcapConfig
from lavcap.toy.dataset import train_tokenizer, write_toy_world
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


pytest_plugins = ["finished_runs", "published_models"]

ROOT = Path(__file__).resolve().parent.parent
FLAT_FILES = sorted(
    path for kind in ("lavcap", "captioning") for path in ROOT.glob(f"*_{kind}.py")
)  # travel to the Hub

# Transformers' own tests are there once `make contract` has fetched them.
collect_ignore_glob = [] if library_tests.FOLDER.is_dir() else ["contract/*"]


def pytest_configure(config):
    for name in library_tests.MARKERS:
        config.addinivalue_line("markers", f"{name}: of Transformers' own tests")


# Files that take longest, each in one worker: begun first, so that no worker is left with one at the end.
LONGEST = ("test_interruptions", "test_train_hf", "test_documentation", "test_processes", "test_lora_training")


def pytest_collection_modifyitems(items):
    """Files stay together, for the fixtures of each; within one the slow tests come last."""
    files = list(dict.fromkeys(item.path for item in items))
    files.sort(key=lambda path: LONGEST.index(path.stem) if path.stem in LONGEST else len(LONGEST))
    place = {path: number for number, path in enumerate(files)}
    items.sort(key=lambda item: (place[item.path], item.get_closest_marker("slow") is not None))


def tiny_config(**fields) -> LavcapConfig:
    """LAVCap with 3 audio tokens per frequency row, 4 video tokens, and a vocabulary of 300."""
    text_config = {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "projection_dim": 24,
    }
    audio_config = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_frames": 48,
    }
    text_config |= fields.pop("text_config", {})
    audio_config |= fields.pop("audio_config", {})
    vision_config |= fields.pop("vision_config", {})
    return LavcapConfig(
        **{"num_video_frames": 4, **fields},
        audio_config=audio_config,
        vision_config=vision_config,
        text_config=text_config,
    )


def tiny_model(**fields) -> LavcapForConditionalGeneration:
    torch.manual_seed(0)
    model = LavcapForConditionalGeneration(tiny_config(**fields)).eval()
    # Fresh weights are small: larger ones make every input count in the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(["a red circle beeps, then a blue square buzzes while rain falls"])


@pytest.fixture(scope="session")
def fitting_config(tokenizer) -> LavcapConfig:
    """`tiny_config` with the tokenizer's vocabulary, before a processor adds the placeholder to it."""
    return tiny_config(text_config={"vocab_size": len(tokenizer)})


@pytest.fixture(scope="session")
def processor(fitting_config, tokenizer) -> LavcapProcessor:
    return LavcapProcessor.from_config(fitting_config, tokenizer)


@pytest.fixture(scope="session")
def model(fitting_config) -> LavcapForConditionalGeneration:
    model = tiny_model(text_config={"vocab_size": fitting_config.text_config.vocab_size})
    model.generation_config.update(max_new_tokens=6, num_beams=1, do_sample=False)
    return model


@pytest.fixture(scope="session")
def saved_model(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "toy world ü"
    write_toy_world(folder, train_clips=24, validation_clips=6, test_clips=6, videos=2)
    return folder


def write_floats(path: Path, samples: np.ndarray, rate: int = 16_000):
    """A mono wav file of float32 samples, `(samples,)`, whatever their values."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)


def write_media(
    path: Path,
    seconds: float = 1.0,
    audio: str | None = "aac",
    video: str | None = "libx264",
    rate: int = 44100,
    size: int = 64,
    **options,
) -> Path:
    """A stereo tone of 440 Hz from half time on, and a picture that brightens by 2 a frame, 25 frames a second."""
    with av.open(str(path), "w", options=options) as container:
        if video:
            picture = container.add_stream(video, rate=25)
            picture.width = picture.height = size
            picture.pix_fmt = "yuv420p"
        if audio:
            sound = container.add_stream(audio, rate=rate, layout="stereo")
        for index in range(round(seconds * 25)) if video else ():
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 2 * index % 256, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(picture.encode(frame))
        if video:
            container.mux(picture.encode(None))
        if audio:
            time = np.arange(round(seconds * rate)) / rate
            tone = 0.5 * np.sin(2 * np.pi * 440 * time) * (time >= seconds / 2)
            frame = av.AudioFrame.from_ndarray(
                np.stack([tone, tone]).astype(np.float32), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = rate, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path
