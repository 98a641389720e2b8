"""Files that nobody vouches for: bounds, checksums and types are looked at before what they claim is believed. Nothing
is executed.
"""
