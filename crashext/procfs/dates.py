"""What `date` prints, in its usual forms, as seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_DATE = re.compile(
    r"(?:\w{3},? )?\s*(?:(\w{3})\s+(\d{1,2})|(\d{1,2})\s+(\w{3}))(?:\s+(\d{4}))?"
    r"\s+(\d{1,2}):(\d{2}):(\d{2})(?:\s+([AP]M))?(?:\s+([A-Z]{2,5}|[+-]\d{2}(?::?\d{2})?))?"
    r"(?:\s+(\d{4}))?",
    re.ASCII,
)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d+)?\s?(?:Z|[+-]\d{2}:?\d{2})?")


def parse_date(text: str) -> float | None:
    """Seconds since 1970 of what ``date`` printed. A zone known by letters only counts as UTC:
    between two folders of one machine the difference is right."""
    text = text.strip()
    if _ISO.fullmatch(text):
        try:
            when = datetime.fromisoformat(text.replace(",", ".").replace(" +", "+"))
        except ValueError:
            return None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    month, day = match[1] or match[4], match[2] or match[3]
    year = match[5] or match[11]
    if year is None or _MONTHS.find(month) % 3:
        return None
    hour = int(match[6])
    if match[9]:
        hour = hour % 12 + 12 * (match[9] == "PM")
    try:
        when = datetime(
            int(year),
            _MONTHS.find(month) // 3 + 1,
            int(day),
            hour,
            int(match[7]),
            int(match[8]),
            tzinfo=_zone(match[10] or ""),
        )
    except ValueError:
        return None
    return when.timestamp()


def _zone(text: str) -> timezone:
    digits = text.lstrip("+-").replace(":", "")
    if not digits.isdigit():
        return UTC
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(-offset if text.startswith("-") else offset)
