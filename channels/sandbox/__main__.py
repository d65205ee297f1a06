"""`python -m channels.sandbox --port 41000 --data var/sandbox`"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from channels.sandbox.journal import DataError
from channels.sandbox.server import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns 2 when the data folder or the port cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m channels.sandbox", description="Emulated Shopify stores.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=41000)
    parser.add_argument("--data", type=Path, required=True, help="folder that keeps the stores")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        logging.getLogger("sandbox").info("serving on http://%s:%s/", options.host, options.port)
        serve(host=options.host, port=options.port, folder=options.data)
    except (DataError, OSError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
