"""Captions of a split, their scores with intervals, and tests of whether two sets of captions differ."""
