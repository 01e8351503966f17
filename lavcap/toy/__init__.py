"""The generated audio-visual world of the demo."""
