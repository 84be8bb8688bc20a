"""What containers and pods use, and the calls that tell of it. Everything is read from the kernel; no shim is asked."""
