"""Output that cannot be written: real processes finish and return their exit code."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import dead_outputs
import places
import pytest
from data_sets import jpeg

from ipt_jax import messages

# Prints more than any buffer holds, in every way that the package prints, and says so in a file.
PRINTS = """
import sys
from tqdm import tqdm
from ipt_jax import log, messages

messages.guard_process()
log.setup()
for _ in tqdm(range(2000), file=messages.stderr(), mininterval=0):
    messages.say("a line on stdout")
    messages.say_error("a line on stderr")
    log.logger.warning("a line of the log")
    print("a line of a library", flush=True)
    sys.stderr.write("a line of a library")
opened = open(sys.argv[1], "w")
opened.write(f"{opened.fileno()}")
opened.close()
sys.exit(7)
"""


@pytest.mark.parametrize("kind", dead_outputs.KINDS)
def test_a_process_whose_output_is_dead_finishes_with_its_code(kind, tmp_path):
    run = [sys.executable, "-c", PRINTS, str(tmp_path / "end")]
    assert dead_outputs.start(run, kind).wait(60) == 7
    # No file takes the number of a closed descriptor, into which libraries would write messages.
    assert int((tmp_path / "end").read_text()) > 2


@pytest.mark.parametrize("kind", dead_outputs.KINDS)
@pytest.mark.parametrize(
    "command",
    [
        "check",
        "help",
        "wrong",
        pytest.param("evaluate", marks=pytest.mark.slow),
        pytest.param("restore", marks=pytest.mark.slow),
    ],
)
def test_commands_whose_output_is_dead_return_their_code(command, kind, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "good.jpg").write_bytes(jpeg(0))
    (tmp_path / "images" / "bad.jpg").write_bytes(jpeg(0)[:99])
    images, made = str(tmp_path / "images"), tmp_path / "made"
    if command == "evaluate":
        (tmp_path / "images" / "bad.jpg").unlink()
    arguments, code = {
        "check": (["data", "check", images, f"--json={made}"], 1),
        "help": (["pretrain", "--help-config"], 0),
        "wrong": (["pretrain", "--nothing-of-this-name"], 2),
        "evaluate": (
            ["evaluate", "--weights=bicubic", f"--data={images}", "--tasks=sr2", f"--json={made}"],
            0,
        ),
        "restore": (["restore", "--task=denoise50", images, f"--out={made}"], 1),
    }[command]
    run = [sys.executable, "-m", "ipt_jax", *arguments]
    assert dead_outputs.start(run, kind, cwd=places.ROOT).wait(240) == code
    assert made.exists() == (command not in ("help", "wrong"))
    if command == "restore":
        assert (made / "good.png").exists()


def test_a_reader_that_reads_one_line_sees_no_traceback():
    run = f"{sys.executable} -m ipt_jax pretrain --help-config | head -n 1"
    done = subprocess.run(run, shell=True, cwd=places.ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.count(b"\n") == 1


def test_a_stream_passes_on_what_can_be_written(capsys):
    messages.say("out")
    messages.say_error("error")
    assert capsys.readouterr() == ("out\n", "error\n")
    with messages.guarded():
        assert messages.stdout() is sys.stdout
    assert not isinstance(sys.stdout, messages.GuardedStream)


def test_characters_that_the_encoding_lacks_are_escaped():
    raw = io.BytesIO()
    stream = messages.GuardedStream(io.TextIOWrapper(raw, "ascii", write_through=True))
    stream.write("sigma = \u03c3, \udcff\n")
    assert raw.getvalue() == rb"sigma = \u03c3, \udcff" + b"\n"


def test_streams_that_are_closed_or_missing_drop_all_text():
    closed = io.StringIO()
    closed.close()
    for stream in (messages.GuardedStream(closed), messages.GuardedStream(None)):
        assert stream.write("text") == 4 and not stream.isatty()
        stream.flush()
    with pytest.raises(io.UnsupportedOperation):
        messages.GuardedStream(None).fileno()


def test_a_terminal_shows_a_progress_line():
    """The guard does not hide that stderr is a terminal."""
    code = (
        "from ipt_jax import messages; messages.guard_process(); assert messages.stderr().isatty()"
    )
    main, other = pty.openpty()
    try:
        assert (
            subprocess.run([sys.executable, "-c", code], stderr=other, timeout=60).returncode == 0
        )
    finally:
        os.close(main)
        os.close(other)
