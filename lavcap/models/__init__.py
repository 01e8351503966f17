"""Models: built of a recipe, loaded, trained in part, and asked for captions."""
