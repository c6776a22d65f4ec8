"""Model families. This package is the only place that knows one.

A new family is one module here that defines ``FAMILY``, a
:class:`~colport.families.base.Family`; docs/extending.md has an example.
"""
