"""One trial of a sweep: trained in this process, or in one of its own."""

import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import keras

from kzoo.errors import UsageError, UserError
from kzoo.recipe_files import read_record
from kzoo.settings import tupled
from kzoo.system import out_of_memory
from kzoo.training import train
from kzoo.training.state import Diverged

_CHILD = "from kzoo.sweeping.apart import child; child()"


def outcome(recipe, folder, values, data):
    """Trains a trial: {"headline", "sign", "last", "best", "epoch", "note"}, of one that failed its note alone. Raises
    as `train` where the others would fail likewise.
    """
    try:
        run = train(recipe, folder, values, data)
    except UserError as error:
        if not isinstance(error, Diverged) and not (error.__cause__ and out_of_memory(error.__cause__)):
            raise
        return {"note": str(error)}
    finally:
        keras.utils.clear_session(free_memory=True)
        gc.collect()
    name, sign = run.headline
    told = {"headline": name, "sign": sign, "last": run.metrics[name], "note": run.ended}
    if run.best is None:
        return told | {"note": f"no evaluation gave a finite {name}"}
    return told | {"best": run.best[f"eval_{name}"], "epoch": run.best["epoch"]}


def apart(recipe, folder, values):
    """The same in a process of its own, of the recipe in a file. It is asked to end, and saves, where this one ends."""
    home = str(pathlib.Path(__file__).parent.parent.parent)
    paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", _CHILD, str(recipe), str(folder), json.dumps(values)]
    # the first tells by its end that this process is gone
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, text=True, **pipes)
    try:
        answer = process.stdout.read()
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdin.close()
        process.stdout.close()
    told = json.loads(answer.splitlines()[-1]) if status == 0 else {"error": f"the process ended with status {status}"}
    if "error" in told:
        kind = UsageError if told.get("usage") else UserError
        raise kind(f"{folder}: {told['error']}; called again, the sweep goes on." if status else told["error"])
    return told


def child():
    """One trial, in the process that apart starts: its outcome as JSON on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which the parent hears too and tells
    recipe, folder, values = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        told = outcome(read_record(recipe)[0], pathlib.Path(folder), tupled(json.loads(values)), None)
    except UserError as error:
        told = {"error": str(error), "usage": isinstance(error, UsageError)}
    print(json.dumps(told), flush=True)


def _end_with_parent():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
