"""Captions over HTTP: Transformers' own server, and what it may read."""
