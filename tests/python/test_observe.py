"""What a running server shows to somebody outside: counters."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from site_of_models import IDENTITY, Site, kill, until
from test_cli import cli

import tensorferry
from tensorferry import _server


def value(counters: list[dict[str, Any]], name: str, **labels: str) -> int:
    found = [one["value"] for one in counters if one["name"] == name and one["labels"] == labels]
    assert len(found) == 1, (name, labels, counters)
    return int(found[0])


def test_counters_of_server_and_stub_are_seen_from_outside_while_it_serves(site: Site) -> None:
    body = """
    if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0] == 13:
        raise ValueError("unlucky")
    return answers(requests)
    """
    site.execute("watched", body)
    for _ in range(3):
        site.ask("watched", 1, 1 << 14)
    with pytest.raises(tensorferry.Error):
        site.ask("watched", 13)

    def seen() -> dict[str, Any]:
        done = cli("inspect", str(os.getpid()), "--json")
        assert done.returncode == 0, done.stderr
        return {process["name"]: process for process in json.loads(done.stdout)["processes"]}

    assert until(lambda: value(seen()["server"]["counters"], "executions", model="watched") == 4)
    processes = seen()
    server, stub = processes["server"], processes["watched_0_0"]
    assert server["pid"] == os.getpid()
    assert stub["pid"] == site.pid("watched")
    assert value(server["counters"], "requests", model="watched", outcome="success") == 3
    assert value(server["counters"], "requests", model="watched", outcome="failure") == 1
    assert value(server["counters"], "batches", model="watched") == 4
    assert value(server["counters"], "stub_restarts", model="watched", instance="watched_0_0") == 0
    assert value(server["counters"], "copied_bytes", kind="host") == _server.copy_counts()["host_bytes"]
    assert value(stub["counters"], "executions", instance="watched_0_0") == 4
    assert value(stub["counters"], "copies", kind="inline") >= 1

    kill(site.pid("watched"))
    assert until(lambda: site.restarts("watched") == 1)
    assert value(seen()["server"]["counters"], "stub_restarts", model="watched", instance="watched_0_0") == 1


def test_what_a_stub_copied_is_in_its_counters(site: Site) -> None:
    site.execute("keeps", "self.kept = answers(requests, lambda x: x.copy())\nreturn self.kept")
    site.ask("keeps", 1, 1 << 16)
    counters = _server.read_counters(site.pid("keeps"))
    assert value(counters, "copies", kind="host") == 1
    assert value(counters, "copied_bytes", kind="host") == 4 << 16


def test_counters_go_on_when_a_model_is_loaded_again(site: Site) -> None:
    site.add("again", IDENTITY)
    for i in range(1, 3):
        site.ask("again")
        assert value(_server.read_counters(os.getpid()), "requests", model="again", outcome="success") == i
        site.server.load("again")


def test_a_stub_that_overwrites_its_counters_spoils_only_what_is_said_of_it(site: Site) -> None:
    body = """
    import ctypes
    with open("/proc/self/maps") as file:
        maps = [line.split() for line in file]
    for span, access, _, _, _, *name in maps:
        if "w" in access and name and "tensorferry-counters" in name[0]:
            low, high = (int(part, 16) for part in span.split("-"))
            ctypes.memset(low, 0xFF, high - low)
    return answers(requests)
    """
    site.execute("liar", body)
    site.ask("liar")
    done = cli("inspect", str(os.getpid()), "--json")
    assert done.returncode == 0, done.stderr
    by_pid = {process["pid"]: process for process in json.loads(done.stdout)["processes"]}
    assert "no page of counters" in by_pid[site.pid("liar")]["error"]
    assert "error" not in by_pid[site.pid("other")]
    assert cli("inspect", str(os.getpid())).returncode == 0
    site.assert_sound()


def test_a_child_that_a_model_forks_counts_by_itself(site: Site) -> None:
    body = """
    child = os.fork()
    if child == 0:
        before = open("/proc/self/maps").read().count("tensorferry-counters")
        os._exit(before)
    shared = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return answers(requests, lambda x: x * 0 + shared)
    """
    site.execute("forks", body)
    assert site.ask("forks")[0] == 0


def test_inspect_of_a_stranger_is_an_error_that_says_so() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        done = cli("inspect", str(stranger.pid))
        stranger.kill()
    assert done.returncode == 1
    assert "no counters" in done.stderr.replace("\n", " ")
    gone = cli("inspect", str(stranger.pid))
    assert gone.returncode == 1
    assert "there is no process" in gone.stderr
    assert cli("inspect", "me").returncode == 2
