"""One worker as a child of the fault harness: told all by the environment, and dead with its parent."""

import ctypes
import logging
import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from stream.ports import Refused  # noqa: E402
from stream.settings import load_settings  # noqa: E402
from stream.worker import run  # noqa: E402


def main() -> int:
    """Run the worker; 1 when it refuses, with the reason in its log."""
    if sys.platform == "linux":
        # 1 = PR_SET_PDEATHSIG: a killed harness leaves no worker behind
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return run(load_settings())
    except Refused as refusal:
        logging.getLogger("fraudstream").critical("refused: %s", refusal)
        return 1


if __name__ == "__main__":
    sys.exit(main())
