"""The calls about the node as a whole."""
