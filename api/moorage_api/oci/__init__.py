"""The Open Container Initiative's documents: references, images, runtime specifications, users."""
