"""Run a command on the head of a rig: `python -m tests.rig --loudboxes 4 -- python -m jobs.synthetic`."""

import argparse
import sys

from tests.rig.rig import Rig
from vit_actor.errors import UserError


def main() -> int:
    """Exit code: the command's, or 2 where the rig cannot run."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("--loudboxes", type=int, default=1, help="hosts that declare four boards (default 1)")
    parser.add_argument("--helpers", type=int, default=0, help="hosts without boards (default 0)")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs each of them declares (default 2)")
    parser.add_argument("--object-store-mb", type=int, default=200, help="object store of each host (default 200)")
    parser.add_argument("command", nargs="+", help="after --, what to run on the head")
    given = vars(parser.parse_args())
    command = given.pop("command")
    try:
        with Rig(**given) as rig:
            return rig.start(command).wait()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
