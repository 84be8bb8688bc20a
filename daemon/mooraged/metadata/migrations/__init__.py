"""The history of the database's schema, one numbered step a file. A step that has been released never changes."""
