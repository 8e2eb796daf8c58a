"""Whether weights can be downloaded, asked once and in seconds: most machines that cannot do not say so."""

from __future__ import annotations

import os
import threading
import urllib.request

OFFLINE = "IMGCLS_OFFLINE"  # set in the environment: nothing is asked, here and in the jobs of a sweep
PATIENCE = 3.0  # seconds; looking up a name has no limit of its own


def is_online(url: str) -> bool:
    """Whether the server of the address answers. Once it has not, this process and those it starts do not ask again."""
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
                answers.append(True)
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if answers != [True]:
        os.environ[OFFLINE] = "1"
    return answers == [True]
