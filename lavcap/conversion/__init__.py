"""Released checkpoints as `from_pretrained` folders, a family at a time."""
