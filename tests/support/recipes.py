"""Recipes of runs that take seconds."""

TINY = {
    "model_config": {
        "num_video_frames": 4,
        "audio_config": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_frames": 400,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 32,
            "image_size": 64,
            "projection_dim": 24,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
    },
    "max_new_tokens": 8,
    "num_beams": 2,
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "audio_only_rate": 0.2,
    "video_only_rate": 0.2,
    "cache_features": True,
}
