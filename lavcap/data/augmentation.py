"""Random changes of training clips: SpecAugment, noise, hidden modalities and what the model is asked."""

from dataclasses import dataclass

import torch


# What the released training draws from (prompts/train_prompt.json, `audiocaption`); captioning uses the seventh.
RELEASED_INSTRUCTIONS = (
    "Listen to this audio clip and provide its caption.",
    "Describe the following audio in a caption.",
    "Based on the sound you hear, create a caption for this audio.",
    "Can you describe the scene or event depicted in this audio?",
    "Could you summarise what's happening in this audio?",
    "What does this audio describe?",
    "Please describe the audio.",
    "Please write down what your hear in the audio.",
)
NOISE_LEVEL = 0.1  # of the normalised log-mel: the loudest noise that is drawn (dataset/AudioCaps.py)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each training clip. Everything is off by default.

    Args:
        frequency_mask: widest SpecAugment mask in mel bands (released: 48). Where masked, the log-mel is 0.
        time_mask: the same in frames of 10 ms (released: 192).
        noise: add uniform noise of a random level of at most 0.1, and roll the clip in time by a random shift; an
            option of the released data set that its shipped configuration leaves off.
        audio_only_rate, video_only_rate: share of the clips whose picture, whose sound is hidden.
        instructions: what the model is asked, one of them per clip; none: the processor's instruction.
    """

    frequency_mask: int = 0
    time_mask: int = 0
    noise: bool = False
    audio_only_rate: float = 0.0
    video_only_rate: float = 0.0
    instructions: tuple[str, ...] = ()

    def __post_init__(self):
        rates = self.audio_only_rate, self.video_only_rate
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(
                f"audio_only_rate is {rates[0]} and video_only_rate {rates[1]}, expected shares of the training "
                "clips: not negative and at most 1 together."
            )
        for name in ("frequency_mask", "time_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a width of 0 (off) or more.")
        if not all(text.strip() for text in self.instructions):
            raise ValueError("instructions holds an empty one, expected what the model is to be asked; leave it out.")

    def check_fits(self, max_frames: int, mel: int):
        """Refuse masks that are wider than a filter bank of `(max_frames, mel)`."""
        for name, size in (("frequency_mask", mel), ("time_mask", max_frames)):
            if getattr(self, name) > size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, wider than the filter bank, which has {size}; take less."
                )

    def hidden_modality(self, draw: torch.Generator) -> str | None:
        """`"video"` or `"audio"` at the rates above, else `None`."""
        number = torch.rand((), generator=draw).item()
        if number < self.audio_only_rate:
            return "video"
        return "audio" if number >= 1 - self.video_only_rate else None

    @property
    def missing_modality(self) -> str | None:
        """`"video"` or `"audio"` where no training clip shows it, else `None`."""
        return "video" if self.audio_only_rate == 1 else "audio" if self.video_only_rate == 1 else None

    def instruction(self, draw: torch.Generator) -> str | None:
        """One of the instructions; `None` without any."""
        if not self.instructions:
            return None
        return self.instructions[int(torch.randint(len(self.instructions), (), generator=draw))]

    def spectrum(self, features: torch.Tensor, masked_value: float, draw: torch.Generator) -> torch.Tensor:
        """A changed copy of a normalised log-mel `(frames, mel)`; `masked_value` is what a log-mel of 0 becomes."""
        features = _mask(features, self.frequency_mask, 1, masked_value, draw)
        features = _mask(features, self.time_mask, 0, masked_value, draw)
        if not self.noise:
            return features
        level = NOISE_LEVEL * torch.rand((), generator=draw)
        features = features + level * torch.rand(features.shape, generator=draw)
        frames = features.shape[0]
        return features.roll(int(torch.randint(-frames, frames, (), generator=draw)), dims=0)


def _mask(features: torch.Tensor, widest: int, axis: int, value: float, draw: torch.Generator) -> torch.Tensor:
    """One stripe of a random width below `widest` at a random place, as torchaudio's `mask_along_axis` draws it."""
    if not widest:
        return features
    width, place = torch.rand(2, generator=draw).tolist()
    start = int(place * (features.shape[axis] - widest * width))
    stripe = slice(start, start + int(widest * width))
    features = features.clone()
    features[(slice(None), stripe) if axis else stripe] = value
    return features
