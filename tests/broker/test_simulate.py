"""A simulated shop's live orders, on a real broker."""

import os
import re
import signal
import subprocess
import sys

from stream import topics
from stream.settings import Settings
from tests.running import environment, read


def test_ctrl_c_lets_what_is_on_its_way_arrive_and_says_where_the_shop_goes_on(settings: Settings) -> None:
    topics.create(settings)
    command = [sys.executable, "-m", "stream.cli", "simulate", "live", "--rate", "40", "--days", "2"]
    with subprocess.Popen(
        command, env={**os.environ, **environment(settings)}, stdout=subprocess.PIPE, text=True
    ) as shop:
        read(settings, settings.topics.orders, 20)
        shop.send_signal(signal.SIGINT)
        said, _ = shop.communicate(timeout=30)

    goes_on = re.search(r"the shop goes on with --skip (\d+)$", said)
    assert shop.returncode == 0
    assert goes_on is not None, said
    assert len(read(settings, settings.topics.orders, 20)) == int(goes_on[1])
