"""Restart policies, as labels have them."""

from __future__ import annotations

import pytest

from moorage_api import native
from moorage_api.errors import InvalidArgument
from moorage_api.native import RestartPolicy, own_folder, wants_restart


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", RestartPolicy("always")),
        ("no", RestartPolicy("no")),
        ("on-failure", RestartPolicy("on-failure")),
        ("on-failure:3", RestartPolicy("on-failure", 3)),
        ("unless-stopped", RestartPolicy("unless-stopped")),
    ],
)
def test_policies(text: str, policy: RestartPolicy) -> None:
    assert RestartPolicy.parse(text) == policy
    assert not text or str(policy) == text


@pytest.mark.parametrize("text", ["sometimes", "always:3", "on-failure:", "on-failure:x", "on-failure:-1"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid restart policy"):
        RestartPolicy.parse(text)


@pytest.mark.parametrize(
    ("policy", "more", "status", "wanted"),
    [
        ("always", {}, 0, True),
        ("always", {native.RESTART_STATUS: "stopped"}, 1, False),
        ("no", {}, 1, False),
        ("on-failure", {}, 0, False),
        ("on-failure", {}, 1, True),
        ("on-failure:2", {native.RESTART_COUNT: "1"}, 1, True),
        ("on-failure:2", {native.RESTART_COUNT: "2"}, 1, False),
        ("on-failure:2", {native.RESTART_COUNT: "many"}, 1, True),
        ("unless-stopped", {}, 0, True),
        ("unless-stopped", {native.EXPLICITLY_STOPPED: "true"}, 0, False),
        ("nonsense", {}, 1, False),
    ],
)
def test_who_is_started_again(policy: str, more: dict[str, str], status: int, wanted: bool) -> None:
    labels = {native.RESTART_STATUS: "running", native.RESTART_POLICY: policy, **more}
    assert wants_restart(labels, status) is wanted


def test_only_a_folder_that_is_called_after_the_container_is_its_own() -> None:
    assert own_folder({native.LOG_PATH: "/logs/default/abc/0.log"}, "abc") == "/logs/default/abc"
    assert own_folder({native.LOG_PATH: "/etc/0.log"}, "abc") == ""
    assert own_folder({}, "abc") == ""
