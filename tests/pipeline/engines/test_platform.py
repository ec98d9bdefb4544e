"""What results of the host depend on besides the action."""

from __future__ import annotations

import os
import sys

import pytest

from pipeline.engines.platform import host_platform


def test_a_system_without_the_gnu_c_library_is_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")  # as under musl

    here = host_platform()
    monkeypatch.setattr(os, "confstr", unknown)
    elsewhere = host_platform()
    assert "-libc-" in elsewhere
    assert here.replace("-glibc-", "-libc-") == elsewhere
    assert elsewhere.endswith(f"-cpython-{sys.version_info[0]}.{sys.version_info[1]}")
