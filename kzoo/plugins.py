"""Parts that installed packages bring, by entry points. Nothing of a package runs before it is asked for. Standard
library only.
"""

import functools

from kzoo.errors import UserError, unknown

TASKS = "kzoo.tasks"  # the entry-point group of tasks


@functools.cache
def entries(group):
    """The entry points of the installed packages in a group, in the order of packages and modules."""
    from importlib.metadata import entry_points  # as costly as the rest of listing: not before it is needed

    return tuple(sorted(entry_points(group=group), key=lambda e: (e.dist.name, e.module)))


def refuse_rivals(kind, name, claims):
    """Raises UserError where several (distribution, module) claim one name of a kind of things."""
    if len(claims) > 1:
        told = " and by ".join(f"{distribution} ({module})" for distribution, module in claims)
        raise UserError(f"the {kind} name {name!r} is claimed by {told}; uninstall one of them or rename its {kind}.")


def imported(load, name, module, distribution):
    """load(), which imports the module that `name` comes from. Raises UserError, chained, where that of a plugin
    fails.
    """
    try:
        return load()
    except Exception as error:
        if isinstance(error, UserError):
            raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{name} cannot be had: the module {module} of the plugin {distribution} fails when imported ({told}); "
            "repair or uninstall the plugin."
        ) from error


def settings_of(kind, known, ours):
    """The class of a task's settings, of the table `known`, which a plugin's module fills when it is imported.

    ours: who of kzoo claims the kind, [(distribution, module)] or []. Raises UsageError with the nearest kinds,
    UserError for one that two packages claim and for a plugin that fails.
    """
    plugged = entries(TASKS)
    if kind not in known and kind not in {entry.name for entry in plugged}:
        raise unknown("task", kind, {*known, *(entry.name for entry in plugged)})
    plugged = [entry for entry in plugged if entry.name == kind]
    refuse_rivals("task", kind, ours + [(entry.dist.name, entry.module) for entry in plugged])
    for entry in plugged:
        imported(entry.load, f"the task {kind!r}", entry.module, entry.dist.name)
        if kind not in known:
            raise UserError(
                f"the task {kind!r} of the plugin {entry.dist.name}: {entry.module} defines no settings whose kind is "
                f"{kind!r}."
            )
    return known[kind]
