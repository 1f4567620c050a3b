"""How fast requests may leave, where a limit per minute is known: from the connection, or from what the endpoint says."""

from __future__ import annotations

import math

from airflow_distil.conversation import Quota

__all__ = ["MINUTE", "Pace"]

# Providers that allow 1800 a minute refuse the 31st of a second: what may leave at once is what a second brings.
BURST = 0.1
# Of a limit that an endpoint names without a time. Those that count by the day name the same header, and a day's limit read
# as a minute's holds nobody up; it is the refusals then that tell.
MINUTE = 60.0
# A reset as near as this has passed by the time that a request can be sent because of it.
PAST = 1.0
# A limit whose resets are never further off is one of a shorter window, or hardly used: it is no minute's.
SHORT = 10.0
# A reset that lies further off than its window can is of another window, such as the day's. Some room for clocks and rounding.
LONGEST_RESET = 1.25
# After a refusal, nothing leaves faster than in the long run for this long, whatever is said to remain: many limits per minute
# are kept per second as well, and no header tells.
CALM = 300.0
# However little is said to remain: a twentieth of the usual pace goes on. Some proxies say "0" in each reply, and to believe
# them would be to stop for ever; where it is true, one refusal more says for how long.
LEAST = 0.05
# Seconds that nobody waits for: the clock may not even be able to tell them from none.
AT_ONCE = 1e-4


class Pace:
    """Spreads units (requests, or tokens) over a minute.

    What an endpoint says remains, over the time until that is whole again, is the pace that fits. In a fixed window it uses up
    the window just at its end. In a bucket that fills steadily it settles at the pace of filling, with half the bucket left. If
    others draw on the same limit, or the endpoint counts dearer than we do, less remains, and all slow down together.

    :param per_minute: what the connection allows; None leaves it to what the endpoint says.
    :param now: the time, in seconds of any clock.
    """

    __slots__ = ("_calm_until", "_given", "_holds_until", "_longest_reset", "_rate", "_stock", "_stock_at", "_unit", "_usual")

    def __init__(self, per_minute: float | None, now: float) -> None:
        self._given = math.inf if per_minute is None else per_minute / 60
        self._usual = self._rate = self._given
        self._holds_until = self._calm_until = -math.inf
        self._stock = 0.0  # units; below zero, a debt
        self._stock_at = now
        self._longest_reset = 0.0
        self._unit = 1.0  # what left last: it is part of the burst

    @property
    def per_minute(self) -> float:
        """What may leave in a minute, in the long run; infinite if there is no limit."""
        return self._usual * 60

    def wait(self, now: float) -> float:
        """Return the seconds until the next may leave; 0 if it may now."""
        self._fill(now)
        if self._stock >= 0 or (seconds := -self._stock / self._rate) < AT_ONCE:
            return 0.0
        # What was told holds for a while only; then it is to be seen again.
        return min(seconds, self._holds_until - now) if self._holds_until > now else seconds

    def take(self, units: float) -> None:
        """Let units leave."""
        self._stock -= units
        self._unit = units

    def correct(self, units: float) -> None:
        """Take what was taken too few (below zero: give back what was taken too many)."""
        self._stock -= units

    def heed(self, quota: Quota, now: float) -> None:
        """Go by what the endpoint has just said."""
        self._fill(now)
        window = quota.window or MINUTE
        self._holds_until = -math.inf
        self._longest_reset = max(self._longest_reset, quota.reset or 0.0)
        if quota.reset is not None and quota.reset > LONGEST_RESET * window:
            if quota.window is None:
                self._usual = self._given  # of a day, or a month: their use is not spread over them
            self._rate = self._usual
            return
        if quota.limit is not None and quota.limit >= 1:
            of_a_minute = quota.window is not None or quota.reset is None or self._longest_reset > SHORT
            self._usual = min(self._given, quota.limit / window if of_a_minute else math.inf)
        self._rate = self._usual
        if quota.remaining is None or quota.reset is None or quota.reset < PAST:
            return
        most = self._usual if now < self._calm_until else self._given
        self._rate = min(most, max(quota.remaining / quota.reset, self._least(quota, window)))
        self._holds_until = now + quota.reset

    def refused(self, now: float) -> None:
        """Go no faster than usual for a while, as somebody was refused."""
        self._calm_until = now + CALM
        self._fill(now)
        self._rate = min(self._rate, self._usual)

    def _least(self, quota: Quota, window: float) -> float:
        usual = self._usual if math.isfinite(self._usual) else (quota.limit or MINUTE) / window
        return LEAST * usual

    def _fill(self, now: float) -> None:
        since, self._stock_at = self._stock_at, now
        if self._holds_until <= now:
            if self._holds_until > since:
                self._stock += self._rate * (self._holds_until - since)
                since = self._holds_until
            self._rate = self._usual
        if self._rate == math.inf:
            self._stock = max(self._stock, 0.0)
        else:
            self._stock = min(self._stock + self._rate * (now - since), max(0.0, self._rate * BURST - self._unit))
