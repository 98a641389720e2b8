"""How other libraries name the weights of our families, a module a family; imported when weights are read or
written.
"""
