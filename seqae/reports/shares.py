"""How far an error is below the mean frame's, in words. A share is as the column below of `compare.below_mean_frame`:
1: no error; negative: above it.
"""

from math import isinf


def share_in_words(share: float) -> str:
    """One share: *7 % below the mean frame*."""
    if share != share:
        return "no number, because it diverged"
    if isinf(share):
        return "infinitely far above the mean frame"
    if round(100 * share) == 0:
        return "at the mean frame"
    return f"{100 * abs(share):.0f} % {'below' if share > 0 else 'above'} the mean frame"


def from_to(least: float, most: float) -> str:
    """Both ends of a range of shares, without saying anything twice: *5 to 7 % below the mean frame*."""
    first, last = share_in_words(least), share_in_words(most)
    if first == last:
        return first
    if (side := first.partition(" % ")[2]) and last.endswith(f" % {side}"):
        first, last = (first, last) if side.startswith("below") else (last, first)  # the smaller number first
        return f"{first.removesuffix(f' {side}')} to {last}"
    if side and last == "at the mean frame":
        return f"{first.replace(side, '')}to 0 % {side}"
    return f"{first} to {last.replace('the mean frame', 'it')}"
