"""What the page consists of: sections, each made from the same material by one function.

To add one: a module with ``section(material) -> Section | None``, a template of that section's
body in ``templates/``, and its function in :data:`colport.report.page.SECTIONS`. A further table
is read by ``scripts/report.py`` and needs a title, a caption and its columns in ``columns.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Material:
    """What a report is made from.

    Attributes:
        tables: The tables of :data:`colport.tables.COLUMNS` by name, complete and typed (missing
            ones are empty), and whatever further tables the run has.
        run: ``title``, ``created``, ``environment``, ``settings`` and so on.
        explained: Records of :func:`colport.explain.record.explain_record`.
    """

    tables: Mapping[str, pd.DataFrame]
    run: Mapping[str, Any] = field(default_factory=dict)
    explained: Sequence[Mapping[str, Any]] = ()

    def table(self, name: str) -> pd.DataFrame:
        """A table by name; one that the run does not have is empty."""
        return self.tables.get(name, pd.DataFrame())


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        key: Its id, which links name.
        title: Its heading.
        link: Its name in the navigation.
        template: File in ``templates/`` that prints it; finds ``content`` as a variable.
        content: What the template prints; everything in it is escaped.
    """

    key: str
    title: str
    link: str
    template: str
    content: Mapping[str, Any] = field(default_factory=dict)


Maker = Callable[[Material], Section | None]
"""Makes a section, or ``None`` where the material has nothing for it."""
