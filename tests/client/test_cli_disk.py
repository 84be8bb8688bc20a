"""`system df` and `gc`, as people read them."""

from __future__ import annotations

import json
from typing import Any

from .conftest import Cli


def owners(cli: Cli) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli("system", "df", "-v", "--format", "json").splitlines()]


def test_each_byte_has_its_owners(cli: Cli) -> None:
    cli("create", "--name", "idle", cli.image, "true")
    rows = {row["Type"]: row for row in owners(cli)}
    assert set(rows) == {"image", "container", "garbage", "total"}
    assert (rows["image"]["Name"], rows["image"]["Namespace"]) == (cli.image, cli.namespace)
    assert rows["total"]["Bytes"] >= rows["image"]["Bytes"] > rows["container"]["Bytes"] > 0
    heading, *lines = cli("system", "df", "-v").splitlines()
    assert heading.split() == ["TYPE", "NAMESPACE", "NAME", "SIZE", "SHARED", "UNIQUE"]
    assert lines[-1].startswith("total")


def test_a_collection_by_hand(cli: Cli) -> None:
    planned = cli("gc", "--dry-run").splitlines()
    assert planned[0].split() == ["NAMESPACE", "TYPE", "NAME", "SIZE", "WHY"]
    assert planned[-1].startswith("Total reclaimable space: ")
    done = dict(line.split(": ") for line in cli("gc").splitlines())
    assert {"Blobs", "Snapshots", "Unfinished writes", "Space of blobs"} <= set(done)
    assert cli("system", "gc", "--dry-run", "-q") == ""
    assert cli("run", "--rm", "--pull", "never", cli.image, "echo", "whole") == "whole\n"
