"""Model families. This package is the only place that knows one.

A new family is one module here with a :class:`~colport.families.base.Family` in ``FAMILIES``;
docs/extending.md has examples.
"""
