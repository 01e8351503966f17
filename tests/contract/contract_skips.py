"""Every test of Transformers that LAVCap does not take, with the reason. What is not named here is run."""

MODEL = {
    "test_generation_tester_mixin_inheritance": (
        "the source distribution leaves the generation mixin out; tests/flat/test_generation.py has its substance"
    ),
    "test_model_base_model_prefix": (
        "there is no headless LAVCap: the language model is kept whole, because some heads have biases or soft caps"
    ),
}

_NO_ROW = "looks the embedding of the placeholder up, or clamps its id: by default it is just outside the vocabulary"
NO_EMBEDDED_PLACEHOLDER = {
    "test_inputs_embeds": _NO_ROW,
    "test_resize_tokens_embeddings": _NO_ROW,
    "test_resize_embeddings_untied": _NO_ROW,
    "test_eager_matches_sdpa_inference": "passes placeholders without a clip, which is an error here",
}

_NO_LOSS = "an encoder without a head has no loss"
ENCODER = {
    "test_training": _NO_LOSS,
    "test_model_get_set_embeddings": "the first layer is a convolution, as in other audio encoders",
}

AVCAP: dict[str, str] = {}
_LAST_NORM = "CLIP's last LayerNorm is kept, as in LLaVA, and comes behind the layer that the tokens are taken from"
DALI = dict.fromkeys(
    (
        "test_training",
        "test_training_gradient_checkpointing",
        "test_training_gradient_checkpointing_use_reentrant_false",
        "test_training_gradient_checkpointing_use_reentrant_true",
    ),
    _LAST_NORM,
) | {"test_can_init_all_missing_weights": "CLIP's own layers do not come out of this test as they went in"}
_LAYERS = "each modality has tokens and layers of its own"
CAVMAE = {
    "test_attention_outputs": _LAYERS,
    "test_hidden_states_output": _LAYERS,
    "test_num_layers_is_small": _LAYERS,
}
TEXT_DECODER = {"test_training": _NO_LOSS}

_BOTH = "passes a still picture and a video for one clip, which is refused: the picture would be a frame of the video"
PROCESSOR = {
    "test_image_processor_defaults": "looks for pixel_values: frames come out as pixel_values_videos",
    "test_apply_chat_template_video_frame_sampling": "downloads a video; tests/flat/test_chat_captioning.py has one",
    "test_model_input_names": _BOTH,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": _BOTH,
    "test_processor_text_has_no_visual": "passes a clip with neither sound nor picture, which is refused",
    "test_apply_chat_template_assistant_mask": "refused: labels come with captions=, masked token by token",
    "test_processor_from_and_save_pretrained": (
        "saving a processor with its code leaves auto_map on it, so its to_dict() differs from the reloaded one's"
    ),
}
AVCAP_PROCESSOR: dict[str, str] = {}
DALI_PROCESSOR: dict[str, str] = {}
FEATURE_EXTRACTOR: dict[str, str] = {}
