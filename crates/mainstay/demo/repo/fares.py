"""Fares of a small ferry line, in cents."""

BASE = 250
PER_STOP = 75


def fare(stops, passengers=1, child=False):
    """What `passengers` pay together for a trip of `stops` stops."""
    single = BASE + PER_STOP * stops
    if child:
        single = single / 2
    return single * passengers


def change(paid, stops, passengers=1, child=False):
    """The coins to hand back, largest first."""
    left = paid - fare(stops, passengers, child)
    coins = []
    for coin in (200, 100, 50, 20, 10, 5, 2, 1):
        while left > coin:
            coins.append(coin)
            left -= coin
    return coins
