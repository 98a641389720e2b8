"""The commands, a module for those that belong together: `add` says their words, and a function does each.

Standard library only; each imports what it needs when it runs.
"""
