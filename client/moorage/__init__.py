"""The client library of Moorage and its command line."""
