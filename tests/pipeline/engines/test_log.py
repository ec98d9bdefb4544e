"""Logs: masked on their way, whole, and their end at hand."""

from __future__ import annotations

import io

from pipeline.engines.log import TAIL, Log


def test_a_secret_is_masked_for_the_file_and_for_who_listens_also_where_it_is_cut_in_two() -> None:
    file, heard = io.BytesIO(), list[bytes]()
    log = Log(file, ["hunter22"], heard.append)
    for piece in (b"it is hun", b"ter22, or hun", b"ter2"):
        log.write(piece)
    log.end()
    assert file.getvalue() == b"".join(heard) == log.tail == b"it is ***, or hunter2"
    assert b"" not in heard


def test_the_tail_is_the_end_of_the_log() -> None:
    log = Log(io.BytesIO(), [], lambda _: None)
    for number in range(TAIL):
        log.write(f"{number}\n".encode())
    assert len(log.tail) == TAIL
    assert log.tail.endswith(f"{TAIL - 1}\n".encode())
