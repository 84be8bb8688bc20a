"""The calls of the image service, and the images as the plugin holds them in memory."""
