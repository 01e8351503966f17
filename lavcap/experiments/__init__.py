"""Experiments on the generated world."""
