import io
import socket
from collections.abc import Callable
from pathlib import Path

from synctec.local.process import ChildSpec, LogStream, free_ports


def test_lines_of_children_carry_their_name() -> None:
    output = io.StringIO()
    log = LogStream(output, width=6, colour=False)

    log.write("web", "started")
    log.write("worker", "ready")

    assert output.getvalue() == "web    | started\nworker | ready\n"


def test_each_child_keeps_its_colour() -> None:
    output = io.StringIO()
    log = LogStream(output, width=3, colour=True)

    log.write("web", "one")
    log.write("pg", "two")
    log.write("web", "three")

    first, second, third = output.getvalue().splitlines()
    assert first.removesuffix("one") == third.removesuffix("three")
    assert first[:5] != second[:5]


def test_a_reader_that_went_away_does_not_stop_the_log() -> None:
    output = io.StringIO()
    log = LogStream(output)
    output.close()

    log.write("web", "nobody reads this")


def test_a_wanted_port_is_kept_when_it_is_free() -> None:
    port = free_ports({"web": None})["web"]

    assert free_ports({"web": port}) == {"web": port}


def test_a_wanted_port_that_is_taken_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert free_ports({"web": port})["web"] != port


def test_two_names_never_get_the_same_port() -> None:
    port = free_ports({"web": None})["web"]

    ports = free_ports({"web": port, "sandbox": port})

    assert ports["web"] == port
    assert ports["sandbox"] != port


def test_a_description_does_not_show_the_environment(python_child: Callable[..., ChildSpec], tmp_path: Path) -> None:
    spec = ChildSpec(name="web", command=["web"], environment={"SECRET_KEY": "canary"}, working_directory=tmp_path)

    assert "canary" not in repr(spec)
