"""`login` and `logout`: docker's own file of credentials."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

import click

from moorage.cli import helpers
from moorage.cli.credentials import config_path, key_of, load_config
from moorage.cli.errors import FAILURE, CommandError


@click.command()
@click.argument("server", default="")
@click.option("-u", "--username", default="", help="Who you are there.")
@click.option("-p", "--password", default="", help="Better on standard input: others see your command line.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def login(server: str, username: str, password: str, password_stdin: bool) -> None:
    """Keep a user name and password for a registry: in docker's file, or with the credential helper that it names. They
    are tried when something is pulled or pushed."""
    if password_stdin:
        if password or not username:
            raise CommandError("--password-stdin goes with --username, and without --password")
        password = sys.stdin.read().rstrip("\r\n")
    username = username or click.prompt("Username", err=True)
    password = password or click.prompt("Password", hide_input=True, err=True)
    if not password:
        raise CommandError("the password is empty")
    config, key = load_config(), key_of(server)
    program = helpers.helper_for(config, key)
    if program:
        helpers.store(program, key, username, password)
        entry = {}
    else:
        entry = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
        click.echo(f"WARNING! Your password is kept unencrypted in {config_path()}.", err=True)
    config.setdefault("auths", {})[key] = entry
    _save(config)
    print("Login Succeeded")


@click.command()
@click.argument("server", default="")
def logout(server: str) -> int:
    """Forget the credentials for a registry."""
    config, key = load_config(), key_of(server)
    program = helpers.helper_for(config, key)
    if key not in config.get("auths", {}) and not program:
        print(f"Not logged in to {key}")
        return FAILURE if server else 0
    print(f"Removing login credentials for {key}")
    if program:
        helpers.erase(program, key)
    if config.get("auths", {}).pop(key, None) is not None:
        _save(config)
    return 0


def _save(config: dict[str, Any]) -> None:
    path = config_path()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    scratch = f"{path}.{os.getpid()}.tmp"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(config, file, indent="\t")
    os.replace(scratch, path)
