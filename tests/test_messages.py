"""Names of files, which may hold anything, in messages."""

from __future__ import annotations

import os

from ipt_jax.messages import listed, printable, without_controls

NAME = os.fsdecode(b"a\x1b]0;title\x07\r\n\xff\xe2\x80\xae.png") + "\u2028\x9b"


def test_names_are_printed_on_one_line_without_control_characters():
    shown = r"a\x1b]0;title\x07\r\n\udcff\u202e.png\u2028\x9b"
    assert printable(NAME) == shown == listed([NAME]) and shown.isprintable()
    assert printable("Übung 1, 図.png") == "Übung 1, 図.png"


def test_messages_keep_their_lines():
    assert without_controls("two\nlines\tof\x1b[2J text\r") == "two\nlines\tof\\x1b[2J text\\r"
