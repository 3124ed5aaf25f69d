"""Steps for `tools/gpu_day.py` that end in every way a step can end."""

import os
import signal
import subprocess
import sys
import time
from typing import Any


def good(context: Any, answer: int = 42) -> dict[str, Any]:
    context.tell(before=1)
    return {"answer": answer}


def crashes(context: Any) -> dict[str, Any]:
    context.tell(before=1)
    raise ValueError("nothing works")


def hangs(context: Any) -> dict[str, Any]:
    context.tell(before=1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return {}


def dies(context: Any) -> dict[str, Any]:
    context.tell(before=1)
    with context.facts.open("a") as file:
        file.write('{"cut": ')
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def quits(context: Any) -> dict[str, Any]:
    context.tell(before=1)
    os._exit(0)


def babbles(context: Any) -> dict[str, Any]:
    os.write(1, b'\xff\x00{"answer": 13}\n')
    print("{", file=sys.stderr)
    return {"answer": 42, "far": float("inf")}


def says_what_is_no_json(context: Any) -> dict[str, Any]:
    context.tell(before=1)
    return {"answer": object()}


def breaks_in_part(context: Any) -> dict[str, Any]:
    context.attempt("half", lambda: 1 / 0)
    return {"answer": 42}


def leaves_a_child(context: Any) -> dict[str, Any]:
    return {"child": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid}
