"""What the daemon does for the containers of the command line while no client is there."""
