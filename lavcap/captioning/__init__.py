"""Captions for people's own files: which are meant, window by window, as lines, subtitles and tables."""
