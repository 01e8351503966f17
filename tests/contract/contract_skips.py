"""Every test of Transformers that LAVCap does not take, with the reason. What is not named here is run."""

MODEL = {
    "test_generation_tester_mixin_inheritance": (
        "the source distribution leaves the generation mixin out; tests/test_generation.py has its substance"
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
    "test_eager_matches_sdpa_inference": "passes placeholders without a clip: an error where the placeholder is no word",
}

_NO_LOSS = "an encoder without a head has no loss"
AUDIO_TOWER = {
    "test_training": _NO_LOSS,
    "test_model_get_set_embeddings": "the first layer is a convolution over log-mel patches, as in other audio encoders",
}
