"""The page on which people try a captioner: drop a clip, read what can be heard."""
