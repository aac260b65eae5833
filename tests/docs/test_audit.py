"""docs/audit.md says of each difference what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from payfirst.pipeline.audit_kinds import Kind, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "audit.md"


def test_the_table_of_kinds_is_the_codes() -> None:
    """`python -m payfirst.pipeline.audit_kinds` prints it."""
    printed = re.search(r"<!-- kinds:[^>]*-->\n(.*)<!-- /kinds -->", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert printed is not None
    assert printed.group(1).strip() == table()
    assert all(f"`{kind}`" in printed.group(1) for kind in Kind)
