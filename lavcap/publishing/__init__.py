"""A trained model on the Hub: which files, which card, and one commit."""
