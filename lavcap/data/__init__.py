"""Data sets of clips and captions: their format, where they lie, what is read of them, and batches."""
