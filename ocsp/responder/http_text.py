"""Header text of OCSP answers (RFC 9919 5, RFC 9110): dates, caching, and what many answers of one second share."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from ocsp.protocol.response import Times

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# An answer is not reused in its last hour: a client must not get one that ends on the way.
_CACHE_MARGIN_S: Final = 3_600


@lru_cache(maxsize=16_384)
def http_date(unix_s: int) -> bytes:
    """IMF-fixdate, whatever the locale is."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return (f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d} "
            f"{at.hour:02d}:{at.minute:02d}:{at.second:02d} GMT").encode("ascii")


def read_http_date(text: bytes) -> int | None:
    """Unix seconds of a date in any form of RFC 9110 5.6.7; None when it is not one, so that the header is ignored."""
    try:
        moment = parsedate_to_datetime(text.decode("ascii"))
        return int(moment.timestamp() if moment.tzinfo else moment.replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


class Second:
    """The current second, and the bytes that every answer in it shares; how long caches may keep an answer."""

    def __init__(self, now_s: int, *, max_age_s: int) -> None:
        self._longest_s = max_age_s
        self.now_s = -1
        self.advance(now_s)

    def max_age_s(self, times: Times) -> int:
        """How long a cache may reuse a response from now on."""
        return max(0, min(self._longest_s, times.next_update_s - self.now_s - _CACHE_MARGIN_S))

    def full_age_until_s(self, times: Times) -> int:
        """Until when `max_age_s` does not change."""
        return times.next_update_s - _CACHE_MARGIN_S - self._longest_s + 1

    def cache_headers(self, times: Times) -> bytes:
        """Last-Modified, Expires and Cache-Control of a response; the same in a 304."""
        return (b"Last-Modified: %b\r\nExpires: %b\r\n"
                b"Cache-Control: max-age=%d, public, no-transform, must-revalidate\r\n") % (
            http_date(times.this_update_s), http_date(times.next_update_s), self.max_age_s(times))

    def advance(self, now_s: int) -> None:
        """To another second; nothing happens when it is still the same."""
        if now_s != self.now_s:
            self.now_s = now_s
            self.big_endian = now_s.to_bytes(4, "big")
            self.date = b"Date: %b\r\n" % http_date(now_s)
            self.date_and_etag = self.date + b'ETag: "'
