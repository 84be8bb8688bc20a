"""`events`: in docker's words, by docker's filters, from a time and up to a time."""

from __future__ import annotations

import json
import time

from .conftest import Cli


def told(cli: Cli, *words: str, form: str = "{{.Action}}") -> list[str]:
    """What has been told in this namespace so far."""
    return cli("events", "--since", "10m", "--until", "0s", *words, "--format", form).splitlines()


def test_a_containers_life_in_dockers_words(cli: Cli) -> None:
    start = time.time()
    cli("run", "-d", "--name", "clock", "--label", "team=a", cli.image, "sleep", "100")
    cli("create", "--name", "other", cli.image, "true")
    cli("exec", "clock", "true")
    cli("pause", "clock")
    cli("unpause", "clock")
    cli("kill", "clock")
    cli("wait", "clock")
    cli("rm", "-f", "clock")
    life = ["create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "die", "destroy"]
    # Also of one that is gone.
    assert [action for action in told(cli, "-f", "container=clock") if action != "update"] == life
    assert told(cli, "-f", "type=container", "-f", "event=create", form="{{.Actor.Attributes.name}}") == [
        "clock",
        "other",
    ]
    assert told(cli, "-f", "label=team", "-f", "label=team=a", "-f", "event=die", "-f", "event=oom") == ["die"]
    assert told(cli, "-f", "label=team", "-f", "label=team=b") == []
    assert told(
        cli, "-f", f"image={cli.image}", "-f", "event=start", form="{{.Status}} {{.Actor.Attributes.colour}}."
    ) == ["start ."]
    assert told(cli, "-f", 'topic=="/tasks/oom"') == []
    assert told(cli, "-f", 'topic=="/tasks/start"', form="{{.Topic}}") == ["/tasks/start"]
    (line,) = cli("events", "--since", str(start), "--until", "0s", "-f", "event=die").splitlines()
    assert " container die " in line
    assert line.endswith("exitCode=137, image=" + cli.image.removesuffix(":latest") + ", name=clock, team=a)")
    died = json.loads(told(cli, "-f", "event=die", form="json")[0])
    assert {"status", "id", "from", "Type", "Action", "Actor", "scope", "time", "timeNano"} <= set(died)
    assert (died["Actor"]["Attributes"]["exitCode"], died["Actor"]["ID"]) == ("137", died["id"])


def test_images_and_other_namespaces(cli: Cli) -> None:
    cli("tag", cli.image, "named:1")
    cli("rmi", "named:1")
    assert told(cli, "-f", "image=named", form="{{.Type}} {{.Action}} {{.ID}}") == [
        "image tag named:1",
        "image untag named:1",
    ]
    cli("--namespace", f"{cli.namespace}-far", "pull", "-q", cli.image)
    assert set(told(cli, "--all-namespaces", "-f", "type=image", form="{{.Namespace}}")) >= {
        cli.namespace,
        f"{cli.namespace}-far",
    }
    assert set(told(cli, form="{{.Namespace}}")) == {cli.namespace}


def test_what_is_no_filter_and_no_time_is_told(cli: Cli) -> None:
    for wrong in (("-f", "colour=red"), ("-f", "alone"), ("--since", "tomorrow"), ("--format", "{{nothing}}")):
        done = cli.call("events", "--until", "0s", *wrong)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
