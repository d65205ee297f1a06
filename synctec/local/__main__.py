"""`python -m synctec.local run | status | clean`: the stack in the foreground, as `make run` starts it."""

import argparse
import os
import signal
import sys
import threading
from types import FrameType

from synctec.local import attach
from synctec.local.datafolder import DataFolder
from synctec.local.errors import LocalStackError
from synctec.local.process import LogStream
from synctec.local.stack import LOOPBACK, LocalStack

DEMO_LOGINS = {"merchant": "demo@synctec.test", "admin": "admin@synctec.test"}

# Every address of this machine; the demo logins then have a password made for this data folder.
ANYWHERE = "0.0.0.0"  # noqa: S104
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    arguments = _parse_arguments()
    commands = {"run": run, "status": status, "clean": clean}
    try:
        return commands[arguments.command](arguments)
    except LocalStackError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1


def run(arguments: argparse.Namespace) -> int:
    """Start the stack, show its addresses, and stop it on Ctrl-C, SIGTERM or SIGHUP."""
    # SIGINT too: a shell that starts us in the background has told us to ignore it.
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    log = LogStream(sys.stdout)
    stack = LocalStack(
        DataFolder.default().path, web_port=arguments.port, host=arguments.host, log=log, external=os.environ
    )
    try:
        stack.start()
        sys.stdout.write(banner(stack))
        sys.stdout.flush()
        threading.Event().wait()
    except KeyboardInterrupt:
        log.write("supervisor", "stopping")
    finally:
        # A second Ctrl-C must not leave half of the stack running; stopping takes seconds at most.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
    log.write("supervisor", "stopped; the data is kept, `make run` continues with it")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show what is running. Exit status 1 if nothing is."""
    state = attach.state()
    for name, url in state.urls.items():
        sys.stdout.write(f"{name:<12} {url}\n")
    for name, pid in state.pids.items():
        sys.stdout.write(f"{name:<12} {pid or 'down'}\n")
    return 0


def clean(arguments: argparse.Namespace) -> int:
    """Delete the data folder of the stack."""
    stack = LocalStack(DataFolder.default().path)
    if stack.folder.is_in_use():
        raise LocalStackError(f"A stack is running on {stack.folder.path}: stop it first.")
    if stack.folder.path.exists():
        stack.remove_data()
        sys.stdout.write(f"Removed {stack.folder.path}\n")
    return 0


def banner(stack: LocalStack) -> str:
    """What a newcomer needs to know, once everything runs."""
    urls = stack.urls
    lines = [
        "SyncTec is running.",
        "",
        f"  web      {urls['web']}/",
        f"  admin    {urls['admin']}",
        f"  sandbox  {urls['sandbox']}/",
        "",
        *(f"  {who:<8} {login}  password: {stack.demo_password}" for who, login in DEMO_LOGINS.items()),
        "",
        "Ctrl-C stops everything and keeps the data. In another terminal, `manage.py` uses this stack.",
    ]
    return "\n" + "\n".join(lines) + "\n\n"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m synctec.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="start the stack and stay in the foreground")
    run_parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000), help="web port")
    run_parser.add_argument("--host", choices=(LOOPBACK, ANYWHERE), default=LOOPBACK, help="web address")
    commands.add_parser("status", help="show the running stack")
    commands.add_parser("clean", help="delete the stack's data")
    return parser.parse_args()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
