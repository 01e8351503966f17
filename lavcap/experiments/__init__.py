"""Studies of what a captioner learns: which runs they are made of, the runs, and tables of what they gave."""
