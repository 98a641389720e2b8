"""What a run turned out to be, for people: the report of an evaluation as one page with its files, and runs side by
side.
"""
