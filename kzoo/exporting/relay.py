"""Exporting under another backend than TensorFlow: the model goes to a child process whose backend is TensorFlow.

The parent writes a job folder and runs `python -m kzoo.exporting.relay FOLDER`; what crosses over is only data.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from kzoo.errors import UserError
from kzoo.exporting.place import clear

REFUSED = 3  # the child's exit status where the export was refused; the sentence is in refused.txt


def export_in_child(model_or_run, out, format, quantize, pictures, pictures_from, origin=(None, False)):
    """`export` in a process of its own. Raises UserError with the child's sentence, RuntimeError where the child broke
    down.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        source = (
            pathlib.Path(model_or_run).resolve()
            if isinstance(model_or_run, (str, pathlib.Path))
            else folder / "model.keras"
        )
        if source.parent == folder:
            model_or_run.save(source)
        if pictures is not None:
            np.savez(folder / "pictures.npz", *pictures)
        job = {
            "source": str(source),
            "out": str(out),
            "format": format,
            "quantize": quantize,
            "pictures_from": pictures_from,
            "run": None if origin[0] is None else str(pathlib.Path(origin[0]).resolve()),
            "best": origin[1],
        }
        (folder / "job.json").write_text(json.dumps(job))
        status, errors = _run([sys.executable, "-m", "kzoo.exporting.relay", scratch], out)
        if status == REFUSED:
            raise UserError((folder / "refused.txt").read_text())
        if status:
            clear(out)
            raise RuntimeError(f"the export's TensorFlow process ended with status {status}:\n{errors[-4000:]}")
        return json.loads((folder / "card.json").read_text())


def _run(command, out):
    """(exit status, standard error) of the child, which an exception here, as a signal raises it, ends, with what it
    had built.
    """
    child = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        errors = child.communicate()[1]
        return child.returncode, errors
    except BaseException:
        child.kill()
        child.communicate()
        clear(out)
        raise


def _environment():
    """This process' environment with the TensorFlow backend, and with kzoo found where it was found here."""
    home = str(pathlib.Path(__file__).parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(paths)}


def run_job(folder):
    """The child's part: the exit status."""
    from kzoo.exporting import export

    job = json.loads((folder / "job.json").read_text())
    pictures = None
    if (folder / "pictures.npz").exists():
        with np.load(folder / "pictures.npz", allow_pickle=False) as stored:
            pictures = list(stored.values())
    try:
        card = export(
            job["source"],
            job["out"],
            job["format"],
            job["quantize"],
            pictures=pictures,
            pictures_from=job["pictures_from"],
            run=job["run"],
            best=job["best"],
        )
    except UserError as error:
        (folder / "refused.txt").write_text(str(error))
        return REFUSED
    (folder / "card.json").write_text(json.dumps(card))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(pathlib.Path(sys.argv[1])))
