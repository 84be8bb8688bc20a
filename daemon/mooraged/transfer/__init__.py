"""Images from registries into the store: who to ask, how to log in, what to fetch, and how it becomes snapshots."""
