"""Model families. This package is the only place that knows one.

A new family is a class of one module here, a :class:`~colport.families.base.Family` with a name of
its own; docs/extending.md has examples.
"""
