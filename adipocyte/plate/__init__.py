"""A plate: layouts, the challenge's file names, TIFFs and arrays, fields, what is wrong with them.

A raw plate is only read. Simulated and stained plates are written in the same form.
"""
