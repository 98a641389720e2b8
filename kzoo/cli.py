"""The command line. Each command imports what it needs when it runs, so that `kzoo list` costs milliseconds."""

import argparse
import errno
import sys

from kzoo.commands import data, evaluate, export, models, predict, train
from kzoo.errors import UsageError, UserError
from kzoo.system import Terminated, give_up_output, out_of_memory, reason, terminable


def parser():
    """The parser of `kzoo`; each command's `run` is the function that does it."""
    top = argparse.ArgumentParser(prog="kzoo", description="A pluggable zoo of image models for Keras 3.")
    top.add_argument("--version", action="version", version=_version())
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--json", action="store_true", help="machine-readable output alone on stdout")
    subparsers = top.add_subparsers(metavar="COMMAND")

    def command(name, run, help, of=subparsers):
        added = of.add_parser(name, help=help, description=help, parents=[common])
        added.set_defaults(run=run)
        return added

    def group(name, help):
        return subparsers.add_parser(name, help=help).add_subparsers(metavar="COMMAND", required=True)

    for module in (models, train, evaluate, predict, export, data):
        module.add(command, group)
    return top


def _version():
    from kzoo import __version__

    return f"kzoo {__version__}"


def main(arguments=None):
    """Runs one command and returns the exit status: 0 done, 1 the work failed, 2 wrong usage, 143 ended by SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal cannot spell are told in escapes
            stream.reconfigure(errors="backslashreplace")
    words = parser()
    options = words.parse_args(arguments)
    if not hasattr(options, "run"):
        words.print_help(sys.stderr)
        return 2
    try:
        with terminable():
            status = options.run(options) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # the reader of a pipe (head) has gone
        give_up_output()
        return 1
    except Terminated as end:
        if not end.told:
            print("kzoo: ended by SIGTERM", file=sys.stderr)
        return end.code
    except (KeyboardInterrupt, Exception) as error:
        told = _told(error, options)
        if options.debug or told is None:
            raise
        print(f"kzoo: {told}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _told(error, options):
    """The sentence for a failure that the user can do something about; None: it is our mistake and shows itself."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return (
            "interrupted; started again in the same folder, the run continues"
            if options.run in (train.train, train.sweep)
            else "interrupted"
        )
    if out_of_memory(error):
        first = (str(error).strip().splitlines() or ["no more to be had"])[0]
        return (
            f"the memory ran out ({first[:120]}); choose a smaller model, picture or batch, or end what else takes "
            "memory."
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path holds a NUL character, which none can; correct it."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({reason(error)}); check the path."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a file, it would have its name
        give_up_output()
        return f"the output could not be written ({reason(error)})."
    return None
