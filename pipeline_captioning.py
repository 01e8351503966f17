# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("audio-visual-captioning", …)`: captions of clips of any length, one, many, or as they come."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from transformers import Pipeline
from transformers.utils import logging


try:  # inside a package: the Hub's module cache
    from .containers_captioning import Window
    from .media_captioning import Clip
    from .sources_captioning import MediaError, as_source, is_source
except ImportError:  # as a plain module: a clone, or after `pip install`
    from containers_captioning import Window
    from media_captioning import Clip
    from sources_captioning import MediaError, as_source, is_source


logger = logging.get_logger(__name__)
PARTS = frozenset({"audio", "images", "videos"})  # of a clip, where they are passed apart
WINDOWS = frozenset({"start", "end", "overlap", "modalities"})  # options: which windows, and what of them


class AudioVisualCaptioningPipeline(Pipeline):
    """
    What can be heard in clips, in a sentence for each window of a clip.

    Args:
        inputs: a clip as the processor takes media: a path, a `file://` or `data:` address, bytes, an open file,
            `{"bytes", "path"}`; `{"array", "sampling_rate"}` for sound; or `{"audio", "videos"}` for both apart.
            Or many: a list, a generator, or a column of `datasets`.
        batch_size (`int`): windows captioned at a time, of any clips; default 1.
        instruction (`str`): what to ask; default: what the model was trained with.
        start, end (`float`): of what is captioned, in seconds from the beginning of a file; default: all of it.
        overlap (`float`): seconds that a window begins before the end of the one before it.
        modalities (`"audio"`, `"video"` or both): what is taken of a file; default: as the model does.
        others: for `generate`, such as `num_beams` and `max_new_tokens`; default: the model's decoding.

    Returns:
        For each clip a list with `{"generated_text": str, "timestamp": (start, end)}` for each window, in seconds;
        `timestamp` is `None` where there is no time, as of pictures and arrays. For a list a list of these; for other
        collections a generator, which decodes as it is read.

    Raises:
        MediaError: a clip, or a window of it, cannot be used.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs) -> Any:
        """Captions of one clip or many, see the class. Decoding is in this process, whatever `num_workers` says."""
        windows, instruction, decoding = self._sanitize_parameters(**kwargs)
        windows = {**self._preprocess_params, **windows}
        forward = {**self._forward_params, **instruction, **decoding}
        is_many = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")  # PyTorch's data sets have the latter
        one = is_source(inputs) or isinstance(inputs, Mapping) or not is_many
        found = self._captions([inputs] if one else inputs, batch_size or self._batch_size or 1, windows, forward)
        return next(found) if one else list(found) if isinstance(inputs, list) else found

    def _sanitize_parameters(self, **kwargs) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        windows = {name: kwargs.pop(name) for name in WINDOWS & kwargs.keys()}
        instruction = {"instruction": kwargs.pop("instruction")} if "instruction" in kwargs else {}
        return windows, instruction | kwargs.pop("generate_kwargs", {}), kwargs

    def preprocess(self, inputs: Any, **windows: Any) -> Iterator[tuple[Window | None, dict[str, torch.Tensor]]]:
        """Windows of a clip with their features."""
        for window, clip in self._windows(inputs, **windows):
            if isinstance(clip, MediaError):
                raise clip
            yield window, self.processor.clip_features(clip)

    def _forward(self, clips: list[dict[str, torch.Tensor]], instruction: str | None = None, **decoding) -> list[str]:
        inputs = self.processor.batch(clips, text=instruction).to(self.device)
        return self.processor.decode_captions(self.model.generate(**inputs, **decoding), inputs)

    def postprocess(self, model_outputs: str, window: Window | None = None) -> dict[str, Any]:
        """A record of one window."""
        return {"generated_text": model_outputs, "timestamp": window and (window.start, window.end)}

    # ------------------------------------------------------------------------------------------------- internals

    def _windows(
        self, inputs: Any, modalities: Any = None, **span: Any
    ) -> Iterator[tuple[Window | None, Clip | MediaError]]:
        names = [modalities] if isinstance(modalities, str) else modalities
        wanted = {kind: None if names is None else kind in names for kind in ("audio", "video")}
        if isinstance(inputs, Mapping) and ("array" in inputs or inputs.keys() & PARTS):
            parts = {"audio": inputs} if "array" in inputs else dict(inputs)
            yield None, self.processor.clip_of_parts(**parts)
            return
        source = as_source(inputs)
        for window, clip in self.processor.load_windows(source, **span, **wanted):
            for note in () if isinstance(clip, MediaError) else clip.notes:
                logger.warning_once(f"{source} {note}.")
            yield window if window.end > window.start else None, clip

    def _captions(
        self, inputs: Iterable[Any], batch_size: int, windows: dict[str, Any], forward: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """Captions of clips in order, in batches over clips."""
        waiting: list[tuple[int, Window | None, dict[str, torch.Tensor]]] = []
        done: dict[int, list[dict[str, Any]]] = {}
        next_out = 0
        for number, item in zip(count(), inputs, strict=False):
            done[number] = []
            for window, features in self.preprocess(item, **windows):
                if not features:  # a hole in the file
                    self._flush(waiting, done, forward)
                    done[number].append(self.postprocess("", window))
                    continue
                waiting.append((number, window, features))
                if len(waiting) == batch_size:
                    self._flush(waiting, done, forward)
            while next_out <= number and not any(each == next_out for each, _, _ in waiting):
                yield done.pop(next_out)
                next_out += 1
        self._flush(waiting, done, forward)
        yield from (done.pop(each) for each in sorted(done))

    def _flush(self, waiting: list, done: dict[int, list[dict[str, Any]]], forward: dict[str, Any]):
        if waiting:
            captions = self.forward([features for _, _, features in waiting], **forward)
            for (number, window, _), caption in zip(waiting, captions, strict=True):
                done[number].append(self.postprocess(caption, window))
            waiting.clear()
