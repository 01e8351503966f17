# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Processors of captioners that are prompted: the clip stands among the words of a prompt, the caption behind it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import BatchFeature


try:  # inside a package: the Hub's module cache
    from .chat_captioning import check_options, clips_of
    from .configuration_captioning import CaptioningConfig
    from .options_captioning import as_batch, sort_options, take_call_options
    from .processing_captioning import CaptioningProcessor, check_words
    from .text_captioning import TextOptions, broadcast, check_caption, pad_rows
except ImportError:  # as a plain module: a clone, or after `pip install`
    from chat_captioning import check_options, clips_of
    from configuration_captioning import CaptioningConfig
    from options_captioning import as_batch, sort_options, take_call_options
    from processing_captioning import CaptioningProcessor, check_words
    from text_captioning import TextOptions, broadcast, check_caption, pad_rows


class SoftTokenProcessor(CaptioningProcessor):
    r"""
    Processor with as many placeholders in its prompts as the model will make soft tokens. Text is padded on the left
    for generation and on the right for training. A family has [`num_soft_tokens`], and arguments of its own in a
    constructor that names all of these.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the language model; the placeholder is added to it if need be.
        chat_template (`str`, *optional*): Jinja template of a conversation; default: that of `default_prompt`.
        num_video_frames (`int`): frames taken from a clip, evenly spaced.
        av_token (`str`), av_token_id (`int`, *optional*): the placeholder; the id defaults to the tokenizer's.
        prompt (`str`): template with `{av}` and `{instruction}`.
        instruction (`str`): what is asked when nothing else is.
        others: of [`CaptioningProcessor`].

    Class attributes:
        default_prompt, default_chat_template: the family's prompt, and the same for messages.
    """

    default_prompt: ClassVar[str] = "{av} {instruction}\n"
    default_chat_template: ClassVar[str | None] = None
    takes_instruction: ClassVar[bool] = True

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_video_frames: int = 20,
        av_token: str = "<av>",
        av_token_id: int | None = None,
        prompt: str | None = None,
        instruction: str = "Please describe the audio.",
    ):
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end token, expected eos_token: a caption could not end.")
        tokenizer.add_special_tokens({"extra_special_tokens": [av_token]}, replace_extra_special_tokens=False)
        self.av_token = av_token
        self.av_token_id = tokenizer.convert_tokens_to_ids(av_token) if av_token_id is None else av_token_id
        word = tokenizer.convert_ids_to_tokens(self.av_token_id) if self.av_token_id < len(tokenizer) else av_token
        if word != av_token:
            raise ValueError(
                f"av_token_id is {self.av_token_id}, expected the id of {av_token!r} or one beyond the "
                f"{len(tokenizer)} tokens of the tokenizer: it is that of {word!r}."
            )
        self.prompt = self.default_prompt if prompt is None else prompt
        self.instruction = instruction
        if chat_template is None and self.prompt == self.default_prompt:
            chat_template = self.default_chat_template
        super().__init__(feature_extractor, image_processor, tokenizer, chat_template, num_video_frames)

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature | torch.Tensor:
        """Prompt of a conversation about a clip, or of several conversations.

        Args:
            conversation: messages with `role` and `content`, a text or a list of entries of a `type`: `"text"` asks,
                `"audio"`, `"video"` and `"image"` bring the sound, the picture or a frame of it, under the name of
                their type, `"path"` or `"url"` (of a local file). One clip per conversation.
            chat_template: Jinja template; default: the processor's.
            tokenize: process the prompt and the clip; default: return the text of the prompt.
            return_dict: with `tokenize`: return all model inputs, as the call does, not `input_ids` alone.
            load_audio_from_video: take the sound of the video files as well.
            processor_kwargs: options of the call.
            kwargs: as [`ProcessorMixin.apply_chat_template`]: `add_generation_prompt`, `continue_final_message`,
                variables of the template.
        """
        if kwargs.get("return_assistant_tokens_mask"):
            raise ValueError("return_assistant_tokens_mask is not supported: for training pass captions to the call.")
        options = take_call_options(self.image_processor, kwargs, return_tensors, processor_kwargs)
        variables = {"instruction": self.instruction, "av_token": self.av_token}
        templates = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        check_options(kwargs, templates.get(chat_template or "default", chat_template))
        prompt = super().apply_chat_template(conversation, chat_template, tokenize=False, **variables | kwargs)
        if not tokenize:
            return prompt
        prompts = [prompt] if isinstance(prompt, str) else prompt
        conversations = [conversation] if isinstance(prompt, str) else conversation
        clips = [clips_of(messages, load_audio_from_video) for messages in conversations]
        if any(clips):
            inputs = self.of_conversations(clips, text=prompts, **options)
        else:  # words alone
            options = sort_options(self, options)
            inputs = as_batch(self.encode_text([0] * len(prompts), prompts, **options.text), options.return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    def encode_text(
        self,
        counts: Sequence[int],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        **options,
    ) -> dict[str, torch.Tensor]:
        """Ids of prompts with `counts` placeholders each, and of captions with labels if there are any.

        Args:
            text: instruction, or a whole prompt that holds `av_token` once; default: `instruction`.
            captions: appended to the prompt with an end token.
            options: fields of `TextOptions`, such as `padding` and `max_length`.
        """
        options = TextOptions(**options)
        prompts = broadcast("texts", self.instruction if text is None else text, len(counts))
        template = self._template(training=captions is not None)
        rows = [
            self._prompt_ids(prompt, count, template, options) for prompt, count in zip(prompts, counts, strict=True)
        ]
        if captions is None:
            ids, mask = pad_rows(rows, self.pad_token_id, options, side="left")
            return {"input_ids": ids, "attention_mask": mask}
        answers = [self._answer_ids(caption) for caption in broadcast("captions", captions, len(counts))]
        pairs = list(zip(rows, answers, strict=True))
        ids, mask = pad_rows([row + answer for row, answer in pairs], self.pad_token_id, options, side="right")
        labels, _ = pad_rows([[-100] * len(row) + answer for row, answer in pairs], -100, options, side="right")
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _template(self, training: bool) -> str:
        """Prompt with `{av}` and `{instruction}`, before a caption that is there or one that is asked for."""
        return self.prompt

    def _prompt_ids(self, text: str, count: int, template: str, options: TextOptions) -> list[int]:
        """Ids of a prompt; its parts are encoded each on its own, as the released code does."""
        prompt = text if self.av_token in text or not count else template.replace("{instruction}", text)
        parts = prompt.replace("{av}", self.av_token).split(self.av_token)
        if len(parts) != 1 + (count > 0):
            raise ValueError(
                f"The prompt holds {len(parts) - 1} placeholders {self.av_token}, expected {int(count > 0)}: "
                f"{prompt!r}"
            )
        bos, start = self.tokenizer.bos_token, []
        if bos is not None and options.add_special_tokens:
            parts[0] = parts[0].removeprefix(bos)  # of a template that writes it
            start = [self.tokenizer.bos_token_id]
        before, *after = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts)
        return start + before + [self.av_token_id] * count + sum(after, [])

    def _answer_ids(self, caption: str) -> list[int]:
        check_caption(caption, self.av_token, self.tokenizer.eos_token)
        return self.tokenizer(caption, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]


def check_vocabulary(config: CaptioningConfig, tokenizer, av_token: str):
    """Refuse a tokenizer whose words, beside the placeholder, the language model has no embeddings for.

    Raises:
        ValueError: with both numbers.
    """
    check_words(config, len(tokenizer) - (av_token in tokenizer.get_vocab()))
