"""What a report says of each task's outputs: Reporters, which hear an evaluation pass beside its meter. NumPy and
Pillow, and matplotlib for what they draw.

A plugin's task has one by `Task.reporter`: a Reporter of kzoo.tasks.reports.base, whose sections are tables, drawings
and sheets of pictures; the page and the files are made of them by kzoo.reporting.
"""
