"""What the commands share."""

import json

from kzoo.errors import UsageError
from kzoo.system import hushed


def add_weights(c):
    """What says which weights a target has."""
    c.add_argument("--weights", help="for a NAME: a run, a file of weights or hf://org/repo[@revision][/file]")
    c.add_argument("--random-weights", action="store_true", help="for a NAME: allow untrained weights")
    c.add_argument(
        "--best", action="store_true", help="of a run: the weights of its best evaluation, not the last ones"
    )


def load_backend(options):
    """Imports Keras and its backend quietly."""
    from kzoo.errors import require_backend

    require_backend()
    with hushed(options.debug):
        import keras  # noqa: F401


def emit(options, value, text):
    """The result on stdout: JSON where it was asked for, else text."""
    print(json.dumps(value) if options.json else text)


def settings_of(pairs, example="optim.lr=3e-4", option="--set"):
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{option} takes KEY=VALUE, for example {example}, not {pair!r}.")
        settings[key] = value
    return settings


def told_metrics(metrics):
    return ", ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics.items()
    )
