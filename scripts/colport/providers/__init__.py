"""Execution providers: what each takes, whether this machine has it, and a session on it.

A new provider is one entry in ``table.toml``; docs/extending.md has an example.
"""

from colport.providers.settings import ProviderSettings
from colport.providers.table import PROVIDERS, Provider

__all__ = ["PROVIDERS", "Provider", "ProviderSettings"]
