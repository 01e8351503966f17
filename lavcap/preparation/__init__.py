"""A data set made of what people have: captions and media found, windows cut, a manifest and a report written."""
