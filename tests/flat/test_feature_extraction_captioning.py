"""The feature extractor: Kaldi's numbers, with torchaudio or without, alone or in a batch."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from released_reference import read_golden

import feature_extraction_captioning
from conftest import ROOT
from feature_extraction_captioning import log_mel, torchaudio_fbank
from processing_lavcap import LavcapFeatureExtractor


WAVEFORMS = [
    "chirp",
    "loud_clipped",
    "noise_10s",
    "odd_length",
    "offset",
    "quiet",
    "short_25ms",
    "silence",
    "tone_440",
]
KALDI = [
    "chirp",
    "chirp_with_noise",
    "loud_noise",
    "noise",
    "short",
    "silence",
    "tone_3000",
    "tone_440",
    "tones_with_noise",
]


# ---------------------------------------------------------------------------------------------- against torchaudio


def assert_same_bank(found: torch.Tensor, expected: torch.Tensor, atol: float):
    """Equal in every band that is heard, and in energy in the others.

    Beside a pure tone most bands hold only the rounding of the float32 FFT, which differs between FFT libraries: what
    is 60 dB and more below the loudest band of its frame is compared as energy.
    """
    audible = expected > expected.amax(dim=1, keepdim=True) - 13.8
    torch.testing.assert_close(found[audible], expected[audible], atol=atol, rtol=0)
    energy, loudest = expected.exp(), expected.exp().amax(dim=1, keepdim=True)
    assert ((found.exp() - energy) / loudest).abs().max() < 1e-4


@pytest.fixture
def without_torchaudio(monkeypatch):
    monkeypatch.setattr(feature_extraction_captioning, "torchaudio_fbank", lambda: None)


@pytest.mark.parametrize("name", KALDI)
def test_own_filter_bank_equals_torchaudio_s(name, without_torchaudio):
    _, golden = read_golden("kaldi")
    waveform = golden[f"{name}.waveform"].float() / 2**15
    (found,) = log_mel([waveform], 64, 16000)
    assert found.shape == golden[f"{name}.log_mel"].shape
    assert_same_bank(found, golden[f"{name}.log_mel"], atol=3e-4)


@pytest.mark.parametrize("name", WAVEFORMS)
def test_log_mel_equals_that_of_the_released_settings(name):
    _, golden = read_golden("fbank")
    found = LavcapFeatureExtractor().log_mel(golden[f"{name}.waveform"])
    assert found.shape == (int(golden[f"{name}.frames"]), 64)
    assert_same_bank(found[::50] if name == "noise_10s" else found, golden[f"{name}.log_mel"], atol=3e-4)


def test_a_batch_of_unequal_lengths_equals_its_sounds_one_by_one(without_torchaudio):
    _, golden = read_golden("kaldi")
    waveforms = [golden[f"{name}.waveform"].float() / 2**15 for name in KALDI]
    waveforms[0] = waveforms[0][:1000]
    together = log_mel(waveforms, 64, 16000)
    for waveform, found in zip(waveforms, together, strict=True):
        (alone,) = log_mel([waveform], 64, 16000)
        assert_same_bank(found, alone, atol=1e-5)


def test_a_long_sound_is_filtered_in_pieces_which_does_not_show(without_torchaudio, monkeypatch):
    waveform = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    whole = log_mel([waveform], 64, 16000)[0]
    monkeypatch.setattr(feature_extraction_captioning, "FRAMES_AT_A_TIME", 7)
    torch.testing.assert_close(log_mel([waveform], 64, 16000)[0], whole, rtol=0, atol=1e-5)


def test_where_torchaudio_loads_it_makes_the_filter_bank(monkeypatch):
    calls = []

    def fbank(waveform, **settings):
        calls.append((waveform.shape, settings))
        return torch.zeros(1 + (waveform.shape[1] - 400) // 160, settings["num_mel_bins"])

    kaldi = types.ModuleType("torchaudio.compliance.kaldi")
    kaldi.fbank = fbank
    for name in ("torchaudio", "torchaudio.compliance"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, kaldi.__name__, kaldi)
    torchaudio_fbank.cache_clear()
    try:
        features = LavcapFeatureExtractor()([np.ones(800, np.float32), np.ones(400, np.float32)])["input_features"]
    finally:
        torchaudio_fbank.cache_clear()
    assert [shape for shape, _ in calls] == [(1, 800), (1, 400)]
    assert calls[0][1] == {
        "htk_compat": True,
        "sample_frequency": 16000,
        "use_energy": False,
        "window_type": "hanning",
        "num_mel_bins": 64,
        "dither": 0.0,
        "frame_shift": 10.0,
    }
    assert features.shape == (2, 1024, 64)


def test_the_real_torchaudio_gives_the_numbers_of_our_own(monkeypatch):
    kaldi = torchaudio_fbank()
    if kaldi is None:
        pytest.skip("torchaudio is not installed, or does not load beside this torch")
    waveforms = [torch.randn(12000, generator=torch.Generator().manual_seed(0)) / 10]
    theirs = log_mel(waveforms, 64, 16000)
    monkeypatch.setattr(feature_extraction_captioning, "torchaudio_fbank", lambda: None)
    torch.testing.assert_close(log_mel(waveforms, 64, 16000), theirs, atol=3e-4, rtol=0)


@pytest.mark.parametrize("error", ["OSError('undefined symbol')", "ImportError('no')", "RuntimeError('no operator')"])
def test_a_torchaudio_that_does_not_load_is_done_without(error, tmp_path, monkeypatch):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    torchaudio_fbank.cache_clear()
    try:
        assert torchaudio_fbank() is None
        assert LavcapFeatureExtractor()(np.ones(800, np.float32))["input_features"].isfinite().all()
    finally:
        torchaudio_fbank.cache_clear()


@pytest.mark.slow
def test_a_torchaudio_that_does_not_load_breaks_no_more_than_transformers_itself(tmp_path):
    """What Transformers then raises is in the table of docs/support.md."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('libtorchaudio.so: undefined symbol')")
    metadata = tmp_path / "torchaudio-2.11.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.11.0\n")

    def run(statement: str) -> subprocess.CompletedProcess:
        script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; {statement}"
        return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert run("import configuration_lavcap, transport_captioning, media_captioning").returncode == 0
    library, ours = run("from transformers import LlamaForCausalLM"), run("from lavcap import LavcapConfig")
    assert ours.returncode == library.returncode
    if library.returncode:
        last = library.stderr.strip().splitlines()[-1]
        assert ours.stderr.strip().splitlines()[-1] == last
        assert last.split(":")[0] in (ROOT / "docs" / "support.md").read_text()


# -------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("name", ["short_25ms", "tone_440"])
def test_features_are_padded_then_normalised_as_released(name):
    _, golden = read_golden("fbank")
    features = LavcapFeatureExtractor()(golden[f"{name}.waveform"])["input_features"][0]
    torch.testing.assert_close(features, golden[f"{name}.features"], atol=1e-3, rtol=0)


def test_a_waveform_shorter_than_a_frame_is_heard_and_an_empty_one_refused():
    extractor = LavcapFeatureExtractor()
    assert extractor(np.ones(10, np.float32))["input_features"].isfinite().all()
    with pytest.raises(ValueError, match="0 samples"):
        extractor(np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="44100 Hz, expected 16000 Hz"):
        extractor(np.zeros(400, np.float32), sampling_rate=44100)


def test_features_come_as_tensors_arrays_or_lists_of_the_window():
    extractor, samples = LavcapFeatureExtractor(max_frames=48), np.ones(3000, np.float32)
    tensors = extractor([samples, samples[:500]])["input_features"]
    assert tensors.shape == (2, 48, 64) and tensors.dtype == torch.float32
    arrays = extractor([samples, samples[:500]], return_tensors="np")["input_features"]
    lists = extractor([samples, samples[:500]], return_tensors=None)["input_features"]
    np.testing.assert_array_equal(arrays, tensors.numpy())
    assert lists == tensors.tolist()


def test_frames_beyond_a_sound_hold_the_padding_value_and_those_beyond_the_window_are_cut():
    extractor = LavcapFeatureExtractor(max_frames=48)
    short = extractor(np.ones(400 + 9 * 160, np.float32))["input_features"][0]
    padding = torch.full((38, 64), (0.0 + 4.346) / 4.332)
    torch.testing.assert_close(short[10:], padding)
    assert (short[:10] - padding[:10]).abs().min() > 0.1
    long = np.random.default_rng(0).normal(size=16000).astype(np.float32) / 10
    assert extractor(long)["input_features"].shape == (1, 48, 64)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
def test_the_filter_bank_is_made_on_the_device_that_is_asked_for():
    device = torch.accelerator.current_accelerator()
    samples = [np.random.default_rng(0).normal(size=size).astype(np.float32) / 10 for size in (16000, 300, 5000)]
    found = LavcapFeatureExtractor()(samples, device=device)["input_features"]
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), LavcapFeatureExtractor()(samples)["input_features"], atol=1e-3, rtol=0)


def test_sounds_that_are_filtered_together_keep_their_frames():
    sizes = (16000, 300, 5000)
    together, apart = (
        log_mel([torch.zeros(size, device=device) for size in sizes], 64, 16000) for device in ("meta", "cpu")
    )
    assert [rows.shape for rows in together] == [rows.shape for rows in apart]
