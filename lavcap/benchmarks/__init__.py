"""What the parts of this project cost, against baselines in the same run and against what a machine can do."""
