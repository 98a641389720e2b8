"""Files of weights, a module a group of formats: each reads its header first, its tensors when asked, and runs
nothing.
"""
