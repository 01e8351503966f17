"""Experiments on the generated worlds: studies of what a captioner learns, and how robust it is."""
