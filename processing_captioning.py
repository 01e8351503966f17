# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the processors of all captioners share: clips and words in, tensors out; and captions out of ids.

The same processor serves training and inference.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoProcessor,
    BatchFeature,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.processing_utils import ProcessingKwargs, Unpack
from transformers.utils import logging


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import CaptioningConfig, check_scales, check_sizes
    from .containers_captioning import Window
    from .inputs_captioning import (
        ClipInputs,
        as_files,
        is_file,
        sort_by_clip,
        to_features,
        to_frames,
        to_samples,
    )
    from .media_captioning import Clip, even_indices, read_clip, read_windows
    from .options_captioning import IMAGE_SIZES, NO_OPTIONS, CallOptions, as_batch, check_bounds, sort_options
    from .pictures_captioning import read_images
    from .sounds_captioning import cancel, peak_of, resample, to_mono
    from .sources_captioning import MediaError, as_source, is_folder, is_source, list_images
    from .windows_captioning import SHORTEST_TAIL
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import CaptioningConfig, check_scales, check_sizes
    from containers_captioning import Window
    from inputs_captioning import (
        ClipInputs,
        as_files,
        is_file,
        sort_by_clip,
        to_features,
        to_frames,
        to_samples,
    )
    from media_captioning import Clip, even_indices, read_clip, read_windows
    from options_captioning import IMAGE_SIZES, NO_OPTIONS, CallOptions, as_batch, check_bounds, sort_options
    from pictures_captioning import read_images
    from sounds_captioning import cancel, peak_of, resample, to_mono
    from sources_captioning import MediaError, as_source, is_folder, is_source, list_images
    from windows_captioning import SHORTEST_TAIL


logger = logging.get_logger(__name__)

CALL_ARGUMENTS = {"input_features": "audio", "pixel_values_videos": "videos"}  # of the call, by what is made of them
LENGTH_TOLERANCE = 0.1  # seconds that a clip may exceed the window without a word: the last packet of a codec


class CaptioningProcessor(ProcessorMixin):
    r"""
    Turns clips into model inputs: sound into a filter bank, frames into pixels, words into ids. A family has
    [`num_soft_tokens`] and [`encode_text`], and a constructor that names all of its arguments.

    Args:
        feature_extractor (`SequenceFeatureExtractor`): for the sound; has `window` (seconds) and `sampling_rate`.
        image_processor (`BaseImageProcessor`): for the frames.
        tokenizer (`PreTrainedTokenizerBase`): of the language model.
        chat_template (`str`, *optional*): Jinja template of a conversation.
        num_video_frames (`int`): frames taken from a clip.

    Class attributes:
        config_class: the family's configuration, which has the table of feature names.
        frame_sampler: how frames are chosen of a clip, as data sets note it.
        takes_instruction: whether the model is asked something; then `instruction` is what, when nothing else is.
    """

    config_class: ClassVar[type[CaptioningConfig]] = CaptioningConfig
    frame_sampler: ClassVar[str] = "centres of equal parts"
    takes_instruction: ClassVar[bool] = False

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_video_frames: int = 20,
    ):
        self.num_video_frames = num_video_frames
        check_sizes(self)
        check_scales(image_processor, "image_processor.")
        for name in IMAGE_SIZES:
            check_bounds(name, getattr(image_processor, name, None), "image_processor.")
        super().__init__(feature_extractor, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(cls, config: CaptioningConfig, tokenizer, **kwargs) -> "CaptioningProcessor":
        """Processor that fits a configuration; keywords go to the constructor."""
        raise NotImplementedError

    def num_soft_tokens(self, audio: bool, video: bool, video_tokens: int | None = None) -> int:
        """Soft tokens of a clip, given which modalities it has, and how many frames or stored features."""
        raise NotImplementedError

    def encode_text(
        self,
        counts: Sequence[int],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        **options,
    ) -> dict[str, torch.Tensor]:
        """Ids, their mask and, with captions, labels, of clips with `counts` soft tokens each.

        Args:
            options: fields of `TextOptions`, such as `padding` and `max_length`.
        """
        raise NotImplementedError

    def choose_frames(self, available: int, draw: torch.Generator | None = None) -> list[int]:
        """Numbers of the frames to take of a clip that has so many.

        Args:
            draw: for a family that takes others each time in training; default: those of evaluation.
        """
        return even_indices(available, self.num_video_frames)

    @property
    def num_candidate_frames(self) -> int:
        """Frames of a film, at even distances, that [`choose_frames`] chooses among."""
        return self.num_video_frames

    @property
    def feature_names(self) -> dict[str, tuple[str, ...]]:
        """By modality, the model inputs that hold it."""
        return self.config_class.feature_names

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip."""
        return tuple(self.feature_names)

    @property
    def window(self) -> float:
        """Longest clip that is taken whole, in seconds."""
        return self.feature_extractor.window

    @property
    def model_input_names(self) -> list[str]:
        features = [name for names in self.feature_names.values() for name in names]
        return ["input_ids", "attention_mask", *features, *(f"{kind}_mask" for kind in self.feature_names)]

    def blank_features(self, stored_size: int | None = None) -> dict[str, torch.Tensor]:
        """Zeros in the shape of the features of one clip that has every modality.

        Args:
            stored_size: width of stored visual features, `(video_frames, stored_size)`, in the place of pixels.
        """
        silence = np.zeros(self.feature_extractor.sampling_rate, np.float32)
        black = np.zeros((self.num_video_frames, 64, 64, 3), np.uint8) if stored_size is None else None
        features = self.clip_features(Clip(silence, black, None))
        if stored_size is not None and "video" in self.modalities:
            features["video_features"] = torch.zeros(self.num_video_frames, stored_size)
        return {name: torch.zeros_like(each) for name, each in features.items()}

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with, masked: the end token where the tokenizer has none, as LLaMA-2's."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def decode_captions(self, output_ids: torch.Tensor, inputs: BatchFeature | dict | None = None) -> list[str]:
        """Captions from what `generate` returns, each in one line.

        Args:
            output_ids: `(batch, sequence)`, or an output of `generate` that has them as `sequences`.
            inputs: what was given to `generate`; the prompt is cut off by its length. Default: nothing is cut.
        """
        output_ids = getattr(output_ids, "sequences", output_ids)
        start = 0 if inputs is None else inputs["input_ids"].shape[1]
        texts = self.tokenizer.batch_decode(output_ids[:, start:], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def __call__(
        self,
        media: Any = None,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        video_features: Any = None,
        captions: str | Sequence[str] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one clip or a list of clips.

        Args:
            media: a file with sound, picture or both: its path, a `file://` or `data:` address, its bytes, an open
                binary file, or `{"bytes", "path"}` as of an undecoded column of `datasets`; or a folder of frames.
                Or, apart:
            audio: a file; samples `(samples,)` or `(channels, samples)`; `{"array": …, "sampling_rate": …}`, or a
                pair of rate and samples. Any rate and number of channels: samples are resampled and mixed down, which
                is said once.
            videos: a file, a folder, a list of pictures or of their files, or array `(video_frames, height, width,
                3)`: uint8, or floating point in [0, 1]. Channels may come first. Frames are taken at even distances.
            images: a still picture for each clip, or a list of the frames of each; in place of `videos`.
            video_features: projected image embeddings, `(video_frames, hidden)`.
                In a list, `None` stands for a clip that lacks the modality.
            text: what stands before the caption: an instruction, or the caption's beginning, as the family has it.
            captions: for training, with an end token; adds `labels`.
            kwargs: `modalities`, what to read of `media`: `"audio"`, `"video"` or both; default: what [`load_clip`]
                does. And as every processor takes them, flat or in `text_kwargs`, `images_kwargs`, `videos_kwargs` and
                `audio_kwargs`:
                `sampling_rate` of `audio` samples in Hz, default the feature extractor's; `device` for the filter
                bank; `num_frames` to take of a video, `do_sample_frames=False` to take all that are passed;
                `padding` (default `True`), `max_length`, `pad_to_multiple_of`, `padding_side`, `add_special_tokens`,
                `truncation`, which never cuts but refuses what is longer than `max_length`;
                `return_tensors`, default `"pt"`; and what the image processor takes.

        Returns:
            `input_ids`, `attention_mask` `(batch, sequence)`; `input_features` `(batch, frames, mel)` and
            `pixel_values_videos` `(batch, video_frames, 3, height, width)` or `video_features`; `audio_mask` and
            `video_mask` `(batch,)` when some clip lacks a modality; `labels` `(batch, sequence)` with `captions`.

        Raises:
            MediaError: a file cannot be used.
            ValueError: a clip with neither sound nor picture; numbers of clips, texts or captions that differ; an
                option that has no meaning here.
            TypeError: unknown keyword.
        """
        wanted = self._wanted(kwargs.pop("modalities", None), media)
        options = sort_options(self, kwargs)
        parts = {"audio": audio, "images": images, "videos": videos, "video_features": video_features}
        if media is not None:
            if given := [name for name, part in parts.items() if part is not None]:
                raise ValueError(f"Got media together with {', '.join(given)}: pass the clip once.")
            frames = options.videos.get("num_frames")
            clips = [self.load_clip(source, **wanted, num_frames=frames) for source in as_files(media)]
            features = self._clip_features(clips, options)
        else:
            rows = sort_by_clip(**parts)
            present = {name for row in rows for name, given in row._asdict().items() if given is not None}
            self._check_modalities("videos" if name == "video" else name for name in present)
            features = self._clip_features([self._clip(row, options) for row in rows], options)
            for row, found in zip(rows, features, strict=True):
                if row.video_features is not None:
                    found["video_features"] = to_features(row.video_features)
        return as_batch(self.batch(features, text, captions, **options.text), options.return_tensors)

    def of_conversations(self, clips: Sequence[Mapping[str, Any]], **options: Any) -> BatchFeature:
        """Model inputs of the clips of conversations, from [`clips_of`]; `options` as of the call.

        A film whose sound is wanted, too, is taken as a whole: one without sound is seen alone.
        """
        if all(is_source(clip.get("media")) for clip in clips):
            return self([clip["media"] for clip in clips], modalities=self.modalities, **options)
        names = ("audio", "images", "videos")
        clips = [dict.fromkeys(("audio", "videos"), clip["media"]) if "media" in clip else clip for clip in clips]
        media = {name: [clip.get(name) for clip in clips] for name in names}
        return self(
            **{name: column for name, column in media.items() if any(part is not None for part in column)}, **options
        )

    def load_clip(
        self,
        medium: Any,
        audio: bool | None = None,
        video: bool | None = None,
        num_frames: int | None = None,
    ) -> Clip:
        """Decode the window of a clip that the model can take; a longer one is cut with a warning.

        A single-modality baseline decodes its modality only.

        Args:
            medium: a file with sound, picture or both, or a folder of frames, as the call takes them.
            audio, video: whether to take the sound, the picture; default: where there is one.
            num_frames: to take at even distances; default: those that the model takes.
        """
        check_bounds("num_frames", num_frames)
        source = as_source(medium)
        if self._sees(video) and num_frames is None and is_folder(source):
            images = list_images(source)
            return Clip(None, read_images(images, self.choose_frames(len(images))), None)
        clip = read_clip(source, **self._reading(audio, video, num_frames))
        self._warn_if_long(str(source), clip.duration)
        for note in clip.notes:
            logger.warning_once(f"{source} {note}.")
        return self._taken_of(clip, audio, video, num_frames)

    def load_windows(
        self,
        medium: Any,
        start: float = 0.0,
        end: float | None = None,
        overlap: float = 0.0,
        shortest: float = SHORTEST_TAIL,
        scene_cut: float | None = None,
        audio: bool | None = None,
        video: bool | None = None,
        decoder_threads: int = 0,
    ) -> Iterator[tuple[Window, Clip | MediaError]]:
        """Decode a medium of any length in windows that the model can take, one by one as they are asked for.

        Args:
            medium, audio, video: as of [`load_clip`].
            start, end: of what is decoded, in seconds from the beginning of the file; default: all of it.
            overlap: seconds that a window begins before the end of the one before it.
            shortest: seconds that the last window has at least; what is left over is not decoded.
            scene_cut: how much of the picture must change, from 0 to 1, so that a window begins; default: no matter
                what is seen.
            decoder_threads: as of [`read_windows`].

        Yields:
            Windows, with their clip, whose `notes` say what a user should know, or with the reason why it cannot be
            used, which costs the others nothing. A picture or a folder of frames is one window of no length.

        Raises:
            MediaError: the file cannot be used.
            ValueError: a span or overlap that makes no windows.
        """
        if not 0 <= overlap < self.window:
            raise ValueError(f"overlap is {overlap!r}, expected seconds from 0 to below the window's {self.window:g}.")
        if not (0 <= start < float("inf") and (end is None or start < end)):
            raise ValueError(f"Got the span {start!r} to {end!r}, expected seconds, the start before the end.")
        source = as_source(medium)
        if is_folder(source):
            yield Window(0.0, 0.0), self.load_clip(source, audio, video)
            return
        span = {"start": start, "end": end, "overlap": overlap, "shortest": shortest, "scene_cut": scene_cut}
        span["decoder_threads"] = decoder_threads

        def taken(found: tuple[Window, Clip | MediaError]) -> tuple[Window, Clip | MediaError]:
            window, clip = found
            return window, clip if isinstance(clip, MediaError) else self._taken_of(clip, audio, video)

        yield from map(taken, read_windows(source, **self._reading(audio, video), **span))

    def clip_of_parts(self, **parts: Any) -> Clip:
        """One clip of what is passed apart: `audio`, `images` or `videos`, as the call takes them."""
        (row,) = sort_by_clip(**dict.fromkeys(("audio", "images", "videos", "video_features")) | parts)
        return self._clip(row, NO_OPTIONS)

    def clip_features(self, clip: Clip) -> dict[str, torch.Tensor]:
        """`input_features` `(frames, mel)` and `pixel_values_videos` `(video_frames, 3, height, width)` of a clip.

        Of what the clip and the model both have.
        """
        return self._clip_features([clip], NO_OPTIONS)[0]

    def batch(
        self,
        clips: Sequence[dict[str, torch.Tensor]],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        audio_mask: Sequence[bool] | None = None,
        video_mask: Sequence[bool] | None = None,
        **text_options,
    ) -> BatchFeature:
        """Put clips from [`clip_features`] and their texts into one batch.

        Args:
            clips: features per clip; `video_features` `(video_frames, hidden)` may replace the pixels.
            text, captions: as in the call.
            audio_mask, video_mask: `False` where a clip shall be treated as if it lacked the modality.
            text_options: as in [`encode_text`].
        """
        if not clips:
            raise ValueError("Got no clip: pass media, audio, videos or video_features.")
        data: dict[str, torch.Tensor] = {}
        self._check_modalities(CALL_ARGUMENTS.get(name, name) for clip in clips for name in clip)
        wanted = {"audio": audio_mask, "video": video_mask}
        heard, seen = (
            self._add_modality(data, clips, self._one_form(kind, clips), f"{kind}_mask", wanted[kind])
            for kind in ("audio", "video")
        )
        for index, present in enumerate(zip(heard, seen, strict=True)):
            if not any(present):
                raise ValueError(f"Clip {index} has {self._nothing_to_use}")
        frames = next((data[name].shape[1] for name in self.feature_names.get("video", ()) if name in data), 0)
        counts = [self.num_soft_tokens(*present, frames) for present in zip(heard, seen, strict=True)]
        data |= self.encode_text(counts, text, captions, **text_options)
        return BatchFeature(data)

    # ------------------------------------------------------------------------------------------------- internals

    def _sees(self, video: bool | None) -> bool:
        return video is not False and "video" in self.modalities

    def _reading(self, audio: bool | None, video: bool | None, num_frames: int | None = None) -> dict[str, Any]:
        """How files are read for this model: arguments of [`read_clip`]."""
        extractor = self.feature_extractor
        return {
            "sampling_rate": None if extractor.keeps_rate else extractor.sampling_rate,
            "num_frames": num_frames or self.num_candidate_frames,
            "window": self.window,
            "audio": audio is not False and "audio" in self.modalities,
            "video": self._sees(video),
            "channels": extractor.channels,
        }

    def _taken_of(self, clip: Clip, audio: bool | None, video: bool | None, num_frames: int | None = None) -> Clip:
        """What the model takes of a window, by default of its own choice."""
        if clip.frames is not None and num_frames is None:
            chosen = self.choose_frames(len(clip.frames))
            if chosen != list(range(len(clip.frames))):
                clip = replace(clip, frames=clip.frames[chosen])
        return clip

    @property
    def _nothing_to_use(self) -> str:
        if len(self.modalities) == 2:
            return "neither sound nor picture: pass at least one."
        missing = "sound" if self.modalities == ("audio",) else "picture"
        return f"no {missing}, and the model takes nothing else: leave the clip out."

    def _wanted(self, modalities: str | Iterable[str] | None, media: Any) -> dict[str, bool | None]:
        """What [`load_clip`] is told to take, by modality; `None`: what there is."""
        if modalities is None:
            return {}
        names = {modalities} if isinstance(modalities, str) else set(modalities)
        if media is None or not names or not names <= {"audio", "video"}:
            raise ValueError(
                f"modalities is {modalities!r:.80}, expected 'audio', 'video' or both, of media: pass it with those."
            )
        self._check_modalities(names)
        return {kind: kind in names for kind in ("audio", "video")}

    def _check_modalities(self, arguments: Iterable[str]):
        for name in arguments:
            if not name.startswith(self.modalities):
                raise ValueError(self._refusal(name))

    def _refusal(self, argument: str) -> str:
        """Why what an argument brings is not taken."""
        return f"Got {argument}, but the model takes {' and '.join(self.modalities)} alone: leave them out."

    def _one_form(self, modality: str, clips: Sequence[dict[str, torch.Tensor]]) -> str | None:
        """Name of the features that a modality of a batch comes as; a modality may have several forms."""
        names = self.feature_names.get(modality, ())
        found = [name for name in names if any(name in clip for clip in clips)]
        if len(found) > 1:
            raise ValueError("Got pixels and video_features in one batch, expected one of them for all clips.")
        return found[0] if found else None

    def _clip(self, inputs: ClipInputs, options: CallOptions) -> Clip:
        waveform, rate = self._waveform(inputs.audio, options.audio.get("sampling_rate"))
        return Clip(waveform, self._frames(inputs.video, options.videos), None, rate)

    def _clip_features(self, clips: Sequence[Clip], options: CallOptions) -> list[dict[str, torch.Tensor]]:
        features: list[dict[str, torch.Tensor]] = [{} for _ in clips]
        heard = [index for index, clip in enumerate(clips) if clip.waveform is not None and "audio" in self.modalities]
        if heard:
            device = options.audio.get("device")
            for indices, rate in self._by_rate(clips, heard):
                waveforms = [clips[index].waveform for index in indices]
                rows = self.feature_extractor(waveforms, sampling_rate=rate, device=device)["input_features"]
                for index, row in zip(indices, rows, strict=True):
                    features[index]["input_features"] = row
        for clip, found in zip(clips, features, strict=True):
            if clip.frames is not None and "video" in self.modalities:
                pixels = self.image_processor(
                    list(clip.frames),
                    return_tensors="pt",
                    input_data_format="channels_last",
                    **options.images,
                )
                found["pixel_values_videos"] = pixels["pixel_values"]
        return features

    def _by_rate(self, clips: Sequence[Clip], heard: Sequence[int]) -> Iterable[tuple[list[int], int | None]]:
        """Numbers of the clips that have one sampling rate; `None`: that of the feature extractor."""
        rates = [clips[index].sampling_rate if self.feature_extractor.keeps_rate else None for index in heard]
        for rate in dict.fromkeys(rates):
            yield [index for index, own in zip(heard, rates, strict=True) if own == rate], rate

    def _waveform(self, audio, sampling_rate: int | None) -> tuple[np.ndarray | None, int | None]:
        if audio is None:
            return None, None
        if is_file(audio):
            clip = self.load_clip(audio, video=False)
            return clip.waveform, clip.sampling_rate
        rate = self.feature_extractor.sampling_rate
        samples, sampling_rate = to_samples(audio, rate if sampling_rate is None else sampling_rate)
        waveform = to_mono(samples, self.feature_extractor.channels)
        rate = sampling_rate if self.feature_extractor.keeps_rate else rate
        self._say_changed(min(samples.shape) if samples.ndim == 2 else 1, sampling_rate, rate)
        if samples.ndim == 2 and cancel(peak_of(to_mono(samples, "first")), peak_of(waveform)):
            logger.warning_once("audio has channels that cancel each other, so that their mean is silence; pass one.")
        self._warn_if_long("audio", len(waveform) / sampling_rate)
        return resample(waveform[: int(self.window * sampling_rate)], sampling_rate, rate), rate

    def _frames(self, video, options: dict[str, Any]) -> np.ndarray | None:
        count, everything = options.get("num_frames"), options.get("do_sample_frames") is False
        if video is None:
            return None
        if is_file(video):
            if everything:
                raise ValueError("do_sample_frames is False for a file, expected frames: of files frames are sampled.")
            return self.load_clip(video, audio=False, num_frames=count).frames
        return to_frames(video, lambda number: self._taken(number, count, everything))

    def _taken(self, available: int, count: int | None, everything: bool) -> Sequence[int]:
        """Numbers of the frames to take of those that were passed."""
        if everything:
            return range(available)
        return self.choose_frames(available) if count is None else even_indices(available, count)

    @staticmethod
    def _say_changed(channels: int, sampling_rate: int, rate: int):
        changes = [f"mixed down from {channels} channels"] if channels > 1 else []
        changes += [f"resampled from {sampling_rate} to {rate} Hz"] if sampling_rate != rate else []
        if changes:
            logger.warning_once(f"audio is {' and '.join(changes)}. This is said once.")

    def _warn_if_long(self, name: str, duration: float | None):
        window = self.window
        if duration is not None and duration > window + LENGTH_TOLERANCE:
            logger.warning(
                f"{name} lasts {duration:.2f} s, the window is {window:.2f} s: only the first {window:.2f} s are used."
            )

    def _add_modality(self, data: dict, clips, name: str | None, mask_name: str, mask) -> list[bool]:
        """Stack a modality into `data` if any clip has it, with a mask if not all have; tell which clips have it."""
        present = [name in clip for clip in clips]
        if not any(present):
            return present
        template = clips[present.index(True)][name]
        # A real clip fills the gaps: made-up values would move the statistics of BatchNorm in training.
        data[name] = torch.stack([_same_shape(name, clip.get(name, template), template) for clip in clips])
        if mask is not None:
            present = [there and bool(wanted) for there, wanted in zip(present, mask, strict=True)]
        if not all(present):
            data[mask_name] = torch.tensor(present)
        return present


def clip_image_processor(image_size: int):
    """What CLIP's pictures go through: resized, cropped to a square of `image_size` pixels, normalised."""
    from transformers import CLIPImageProcessorPil  # the PIL one does without torchvision

    return CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


def imagenet_image_processor(image_size: int):
    """Pictures as models of ImageNet take them: resized (bicubic), cropped to a square, normalised."""
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    processor = clip_image_processor(image_size)
    processor.image_mean, processor.image_std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return processor


def check_words(config: CaptioningConfig, words: int):
    """Refuse a tokenizer with more words than the language model has embeddings for.

    Raises:
        ValueError: with both numbers.
    """
    if words > config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer has {words} tokens and the language model {config.text_config.vocab_size}, expected "
            "at most as many: take the tokenizer of the language model."
        )


def _same_shape(name: str, tensor: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    if tensor.shape != template.shape:
        raise ValueError(
            f"{name} has shapes {tuple(template.shape)} and {tuple(tensor.shape)} in one batch, expected one shape."
        )
    return tensor


def register_processor(
    config_class: type[CaptioningConfig],
    processor_class: type[CaptioningProcessor],
    feature_extractor_class: type[SequenceFeatureExtractor] | None = None,
):
    """Make the Auto classes of processors know a family, which then needs no `trust_remote_code`."""
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoProcessor.register(config_class, processor_class, exist_ok=True)
    if feature_extractor_class is not None:
        AutoFeatureExtractor.register(config_class, feature_extractor_class, exist_ok=True)
