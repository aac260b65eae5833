"""What a request makes its answer depend on: `Prefer: wait` (RFC 7240) and `If-None-Match` (RFC 9110). Pure."""

from __future__ import annotations

import re

# Longer ones ask for more than anyone could mean, and are read as none.
PREFER_CHARACTERS_MAX = 1_000
# More digits than any time has say the same as a time that is too long.
DIGITS_MAX = 20

# One preference and what belongs to it; a comma inside quotes ends nothing.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_WAIT = re.compile(r'\s*wait\s*=\s*(?:([0-9]+)|"([0-9]+)")\s*(?:;.*)?', re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"\s*wait\s*(?:[=;]|$)", re.IGNORECASE)
_ENTITY_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e]*)"')


def wait_s(prefer: str, *, at_most: int) -> int:
    """The seconds for which the client would wait, `at_most` the server's; 0 when it would not.

    Of several values the first counts; what is malformed is no preference (RFC 7240, section 2).
    """
    if len(prefer) > PREFER_CHARACTERS_MAX:
        return 0
    for preference in _PREFERENCE.findall(prefer):
        if _NAME.match(preference):
            found = _WAIT.fullmatch(preference)
            return 0 if found is None else min(int((found[1] or found[2])[:DIGITS_MAX]), at_most)
    return 0


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether the client has what `tag` stands for (the tag without its quotes): the answer is 304 then."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _ENTITY_TAG.findall(if_none_match)
