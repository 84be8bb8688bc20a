"""Archives of images: OCI layouts and what `docker save` writes, in and out of the store."""
