"""Stop words of the languages that datasets name, from bm25s."""

from __future__ import annotations

from collections.abc import Sequence

from colport.base.errors import UnsupportedError

_STOP_WORDS = {
    "DUTCH": {"nl", "nld", "dutch"},
    "EN": {"en", "eng", "english"},
    "FRENCH": {"fr", "fra", "french"},
    "GERMAN": {"de", "deu", "german"},
    "ITALIAN": {"it", "ita", "italian"},
    "PORTUGUESE": {"pt", "por", "portuguese"},
    "SPANISH": {"es", "spa", "spanish"},
}
"""End of the name of bm25s' list of stop words to what datasets call the language."""


def stop_words(languages: Sequence[str], longest: bool = False) -> set[str]:
    """The stop words of those of the languages that bm25s knows, in lower case.

    Args:
        languages: As datasets call them.
        longest: NLTK's list of English, which has 179, not Lucene's with 33.

    Raises:
        UnsupportedError: bm25s is not installed.
    """
    try:
        from bm25s import stopwords
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"{error.name} is not installed; pip install 'colport[pipeline]' brings it."
        ) from error
    names = ("EN_PLUS" if longest and name == "EN" else name for name in known_languages(languages))
    return {word for name in names for word in getattr(stopwords, f"STOPWORDS_{name}")}


def known_languages(languages: Sequence[str]) -> list[str]:
    """Names of bm25s' lists of those of the languages that it knows."""
    found = {name.lower().partition("-")[0] for name in languages}
    return [name for name, known in _STOP_WORDS.items() if known & found]
