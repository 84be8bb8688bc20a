"""The differ `walking`: layers into snapshots (apply) and out of them (compare), in worker processes."""
