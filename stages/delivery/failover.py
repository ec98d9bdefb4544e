"""Where users go when nobody is left who should serve them."""

from __future__ import annotations

from enum import Enum


class Failover(Enum):
    """While no instance of any release that has a share is well, users get the router's page, or go to what served before."""

    PAGE = "page"
    """The page, with status 503 and Retry-After."""
    WARM = "warm"
    """The releases that had traffic before and still run; the page when there are none, or none of them is well."""
