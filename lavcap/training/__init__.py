"""The Trainer of a captioner, and what it holds: losses, meter, checkpoints, and what a run continues from."""
