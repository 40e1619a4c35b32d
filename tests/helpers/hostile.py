"""Rows that try to act where they are shown."""

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)> [click](javascript:alert(1)) \x1b[31mred\x1b[0m "
    "\u202eright to left `code` | cell | # head \x00 end"
)
