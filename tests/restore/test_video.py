"""`ipt restore` of videos: colours, bit depth, frame times, sound, subtitles, reasons of failures.

Colours are compared with numbers that are computed here from the definition of each matrix, and
with ffmpeg's own conversion.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small

from ipt_jax.cli import restore as cli_restore
from ipt_jax.cli.app import main
from ipt_jax.errors import VideoError
from ipt_jax.restore import ffmpeg, video_info
from ipt_jax.tasks import make_tasks
from tests.weights.test_load import Copies

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="needs ffmpeg and ffprobe"
)

GREEN = (29, 189, 27)
# Matrix -> weights of R and B in the luma (ITU-R BT.601, BT.709, BT.2020).
WEIGHTS = {
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
}


@pytest.fixture
def copies(monkeypatch) -> None:
    """Makes `ipt restore` use a network that copies its input, enlarged for sr2."""
    names = ("sr2", "denoise50")
    tasks = {task.name: task for task in make_tasks(names)}
    made = Copies(small.model(small.config(tasks=names)), {}, tasks, {})
    monkeypatch.setattr(cli_restore, "load_weights", lambda *_, **__: made)


def restore(source: Path, out: Path, *more: str, task: str = "denoise50") -> int:
    words = ["restore", str(source), "-o", str(out), "--task", task, "--weights", "copies"]
    return main([*words, "--overlap", "4", *more])


def run_ffmpeg(*words: Any, data: bytes | None = None) -> bytes:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, words)]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def probe(path: Path, *words: str) -> dict[str, Any]:
    command = ["ffprobe", "-v", "error", *words, "-of", "json", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def streams(path: Path, kind: str = "video") -> list[dict[str, Any]]:
    found = probe(path, "-show_streams")["streams"]
    return [one for one in found if one["codec_type"] == kind]


def times(path: Path) -> list[float]:
    found = probe(path, "-select_streams", "v:0", "-show_entries", "frame=pts_time")["frames"]
    return [float(one["pts_time"]) for one in found]


def first_time(path: Path, kind: str) -> float:
    """Returns the earliest time of a packet of a stream: "v" (video), "s" (subtitles)."""
    found = probe(path, "-select_streams", kind, "-show_entries", "packet=pts_time,size")
    # Text in .mp4 has empty packets where nothing is shown.
    return min(float(one["pts_time"]) for one in found["packets"] if int(one["size"]) > 2)


def to_ycc(rgb: np.ndarray, matrix: str, full: bool = False, depth: int = 8) -> np.ndarray:
    """Returns Y, Cb and Cr of RGB in 0..1 as numbers of this depth, not rounded."""
    red, blue = WEIGHTS[matrix]
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    cb = (rgb[..., 2] - luma) / (2 - 2 * blue)
    cr = (rgb[..., 0] - luma) / (2 - 2 * red)
    unit, top = 2 ** (depth - 8), 2**depth - 1
    scales = (0, top, top) if full else (16 * unit, 219 * unit, 224 * unit)
    middle = 128 * unit
    return np.stack(
        [scales[0] + scales[1] * luma, middle + scales[2] * cb, middle + scales[2] * cr], -1
    )


def to_rgb(ycc: np.ndarray, matrix: str, full: bool = False, depth: int = 8) -> np.ndarray:
    """Returns RGB in 0..255 of Y, Cb and Cr; the inverse of `to_ycc`."""
    black = to_ycc(np.zeros(3), matrix, full, depth)
    columns = np.stack([to_ycc(one, matrix, full, depth) - black for one in np.eye(3)])
    return 255 * ((ycc - black) @ np.linalg.inv(columns))


def tagging(matrix: str | None, full: bool, primaries: str, transfer: str) -> list[str]:
    """Returns the options that tag a video; ffmpeg's versions read them at different places."""
    if matrix is None:
        return []
    named = {"gamma28": "bt470bg"}.get(transfer, transfer)
    limits = "pc" if full else "tv"
    return [
        *("-colorspace", matrix, "-color_range", limits),
        *("-color_primaries", primaries, "-color_trc", transfer),
        "-vf",
        f"setparams=range={limits}:colorspace={matrix}"
        f":color_primaries={primaries}:color_trc={named}",
    ]


def make_flat(
    path: Path,
    height: int,
    width: int,
    *,
    matrix: str,
    tags: list[str],
    full: bool = False,
    colour: tuple[int, ...] = GREEN,
    frames: int = 8,
) -> None:
    """Writes a lossless video of one colour, computed by a matrix."""
    ycc = np.rint(to_ycc(np.array(colour) / 255, matrix, full)).astype(np.uint8)
    sizes = (height * width, height * width // 4, height * width // 4)
    data = b"".join(bytes([value]) * size for value, size in zip(ycc, sizes, strict=True))
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", "10"]
    # The range of raw video must be named, or ffmpeg converts it.
    known = ["-color_range", "pc" if full else "tv"]
    lossless = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0"]
    run_ffmpeg(*raw, *known, "-i", "-", *lossless, *tags, path, data=data * frames)


def shown(path: Path, tags: dict[str, Any]) -> np.ndarray:
    """Returns the colour in the middle of the first frame, computed by the tags of the file."""
    height, width = tags["height"], tags["width"]
    assert tags["pix_fmt"] in ("yuv420p", "yuvj420p")
    planes = run_ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-")
    luma, cb, cr = np.split(
        np.frombuffer(planes, np.uint8), [height * width, height * width * 5 // 4]
    )
    ycc = np.array([plane[len(plane) // 2 + width // 4] for plane in (luma, cb, cr)], float)
    return to_rgb(ycc, tags["color_space"], tags["color_range"] == "pc")


def shown_by_ffmpeg(path: Path, tags: dict[str, Any]) -> np.ndarray:
    """Returns the colour in the middle of the first frame as ffmpeg converts it by the tags."""
    height, width = tags["height"], tags["width"]
    exact = ["-sws_flags", "accurate_rnd+full_chroma_int+full_chroma_inp"]
    wanted = ["-frames:v", 1, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    data = run_ffmpeg("-i", path, *exact, *wanted)
    frame = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    return frame[height // 2, width // 2].astype(float)


@pytest.mark.parametrize(
    "height, task, tagged, matrix",
    [
        (48, "denoise50", "bt709", "bt709"),
        (48, "denoise50", None, "smpte170m"),
        (720, "denoise50", "smpte170m", "smpte170m"),
        (720, "denoise50", None, "bt709"),
        (400, "sr2", "bt709", "bt709"),
        # The result would be read as BT.709 if it had no tag.
        (400, "sr2", None, "smpte170m"),
    ],
)
def test_a_player_shows_the_colour_of_the_source(copies, tmp_path, height, task, tagged, matrix):
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    tags = tagging(tagged, False, matrix, matrix)
    make_flat(source, height, 16, matrix=matrix, tags=tags, frames=2)
    assert streams(source)[0].get("color_space") == tagged
    assert restore(source, out, task=task) == 0
    found = streams(out)[0]
    np.testing.assert_allclose(shown(out, found), GREEN, atol=1.5)
    np.testing.assert_allclose(shown_by_ffmpeg(out, found), GREEN, atol=1.5)
    assert found["height"] == height * (2 if task == "sr2" else 1)
    assert (found["color_space"], found["color_range"]) == (matrix, "tv")
    # Analogue primaries are not assumed for sizes that analogue television does not have.
    assert found["color_primaries"] == found["color_transfer"] == (tagged or "bt709")


@pytest.mark.parametrize(
    "suffix, matrix, full, primaries, transfer",
    [
        (".mp4", "bt470bg", True, "bt470bg", "gamma28"),
        (".mkv", "bt2020nc", False, "bt2020", "bt2020-10"),
        pytest.param(".webm", "bt709", True, "smpte432", "iec61966-2-1", marks=pytest.mark.slow),
        pytest.param(".avi", "bt709", False, "bt709", "bt709", marks=pytest.mark.slow),
    ],
)
def test_all_tags_of_colour_are_kept(copies, tmp_path, suffix, matrix, full, primaries, transfer):
    source, out = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    make_flat(
        source,
        *(48, 64),
        matrix=matrix,
        full=full,
        tags=tagging(matrix, full, primaries, transfer),
        frames=2,
    )
    before = streams(source)[0]
    assert restore(source, out, "--quality", "100") == 0
    after = streams(out)[0]
    for key in ("color_space", "color_range", "color_primaries", "color_transfer"):
        assert after[key] == before[key], key
    np.testing.assert_allclose(shown(out, after), GREEN, atol=2)


def test_rgb_becomes_ycc_with_tags(copies, tmp_path):
    source, out = tmp_path / "in.mkv", tmp_path / "out.mp4"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "10", "-i", "-"]
    run_ffmpeg(*raw, "-c:v", "ffv1", "-pix_fmt", "gbrp", source, data=bytes(GREEN) * 64 * 48 * 3)
    assert restore(source, out) == 0
    found = streams(out)[0]
    # R, G and B have chroma at full resolution, which is kept.
    assert found["pix_fmt"] == "yuv444p" and found["color_space"] == "smpte170m"
    np.testing.assert_allclose(shown_by_ffmpeg(out, found), GREEN, atol=1.5)


def make_ten_bits(path: Path, *tags: str) -> np.ndarray:
    """Writes a lossless grey video of 10 bits, and returns the luma of its 3 x 4 squares."""
    luma = (67 + 71 * np.arange(12).reshape(3, 4)).astype("<u2")
    plane, chroma = np.kron(luma, np.ones((16, 16), "<u2")), np.full((2, 24, 32), 512, "<u2")
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x48", "-r", "10", "-i", "-"]
    lossless = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0"]
    run_ffmpeg(*raw, *lossless, *tags, path, data=(plane.tobytes() + chroma.tobytes()) * 2)
    return luma


@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".webm", marks=pytest.mark.slow)])
def test_ten_bits_are_kept(copies, tmp_path, suffix):
    source, out = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    luma = make_ten_bits(source, *tagging("bt709", False, "bt709", "bt709"))
    assert restore(source, out, "--quality", "100") == 0
    assert streams(out)[0]["pix_fmt"] == "yuv420p10le"
    data = run_ffmpeg("-i", out, "-frames:v", 1, "-f", "rawvideo", "-")
    found = np.frombuffer(data, "<u2")[: 48 * 64].reshape(3, 16, 4, 16)
    # With 8 bits, these values would be multiples of 4.
    np.testing.assert_allclose(found.mean(axis=(1, 3)), luma, atol=0.6)
    assert len(set((luma % 4).flat)) == 4


@pytest.mark.parametrize("transfer, name", [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_high_dynamic_range_is_refused(copies, tmp_path, capsys, transfer, name):
    source = tmp_path / "in.mkv"
    make_ten_bits(source, *tagging("bt2020nc", False, "bt2020", transfer))
    assert restore(source, tmp_path / "o" / "out.mp4") == 1
    said = capsys.readouterr().err
    assert f"high dynamic range ({name})" in said and "tonemap" in said
    assert not list((tmp_path / "o").iterdir())


def make_moving(path: Path, *more: str, frames: int = 8, rate: str = "10") -> None:
    """Writes frames of a test image, with more options for ffmpeg."""
    length = float(frames / Fraction(rate))
    picture = ["-f", "lavfi", "-t", f"{length:.6f}", "-i", f"testsrc=size=64x48:rate={rate}"]
    run_ffmpeg(*picture, *more, "-pix_fmt", "yuv420p", path)


VARIABLE = "settb=1/1000,setpts=N*40+if(gt(N\\,2)\\,170\\,0)+if(gt(N\\,5)\\,23\\,0)"


@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".webm", marks=pytest.mark.slow)])
def test_a_variable_rate_keeps_every_frame_and_its_time(copies, tmp_path, suffix):
    source, out = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    make_moving(source, "-vf", VARIABLE, "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    expected = [n * 0.04 + (0.17 if n > 2 else 0) + (0.023 if n > 5 else 0) for n in range(8)]
    np.testing.assert_allclose(times(source), expected, atol=1e-9)
    assert restore(source, out) == 0
    np.testing.assert_allclose(times(out), expected, atol=1e-9)


def test_an_avi_cannot_hold_a_variable_rate(copies, tmp_path, capsys):
    source = tmp_path / "in.mkv"
    make_moving(source, "-vf", VARIABLE, "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    assert restore(source, tmp_path / "out.avi") == 1
    assert "frame rate varies" in capsys.readouterr().err and not (tmp_path / "out.avi").exists()


def test_a_constant_rate_and_a_late_start_are_kept_exactly(copies, tmp_path):
    source, out = tmp_path / "in.mkv", tmp_path / "out.mp4"
    # Matroska rounds times to milliseconds, which must not make the rate variable.
    late = ["-f", "lavfi", "-i", "sine=duration=1", "-vf", "setpts=PTS+0.51/TB", "-c:a", "aac"]
    make_moving(source, *late, rate="30000/1001")
    assert restore(source, out) == 0
    assert times(source)[0] > 0.5
    np.testing.assert_allclose(times(out), times(source), atol=1.1e-3)
    np.testing.assert_allclose(np.diff(times(out)), 1001 / 30000, atol=2e-6)
    assert Fraction(streams(out)[0]["r_frame_rate"]) == Fraction(30000, 1001)
    assert float(streams(out, "audio")[0]["start_time"]) < 0.03


def test_the_rate_is_constant_only_if_all_times_say_so():
    stream = {"r_frame_rate": "25/1", "avg_frame_rate": "0/0"}
    rate = Fraction(25)
    assert video_info.constant_rate([0, 1, 2, 3], Fraction(1, 25), stream) == rate
    assert video_info.constant_rate([0, 1, 3, 4], Fraction(1, 25), stream) is None
    assert video_info.constant_rate([7, 47, 88, 127], Fraction(1, 1000), stream) is None
    assert video_info.increasing([3, 3, 2, 9]) == [3, 4, 5, 9]
    stream = {"r_frame_rate": "24000/1001"}
    ticks = [0, 42, 83, 125]
    assert video_info.constant_rate(ticks, Fraction(1, 1000), stream) == Fraction(24000, 1001)


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    """Returns a video with four kinds of sound, subtitles, a chapter and a title."""
    folder = tmp_path_factory.mktemp("rich")
    (folder / "words.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nFirst line\n\n")
    (folder / "chapters.txt").write_text(
        ";FFMETADATA1\ntitle=A title\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    )
    inputs = ["-f", "lavfi", "-i", "sine=duration=1"]
    inputs += ["-i", folder / "words.srt", "-i", folder / "chapters.txt", "-map_metadata", "3"]
    maps = [word for number in (0, 1, 1, 1, 1, 2) for word in ("-map", number)]
    codecs = ["-c:a:0", "pcm_s16le", "-c:a:1", "flac", "-c:a:2", "wmav2", "-c:a:3", "aac"]
    words = ["-c:s", "srt", "-metadata:s:s:0", "language=fra", "-map_chapters", "3"]
    make_moving(folder / "in.mkv", *inputs, *maps, *codecs, *words, frames=5)
    return folder / "in.mkv"


@pytest.mark.parametrize(
    "suffix, sound, subtitles",
    [
        (".mkv", ("pcm_s16le", "flac", "wmav2", "aac"), "subrip"),
        (".mp4", ("aac", "aac", "aac", "aac"), "mov_text"),
        pytest.param(".webm", ("opus",) * 4, "webvtt", marks=pytest.mark.slow),
        pytest.param(".avi", ("pcm_s16le", "flac", "wmav2", "aac"), None, marks=pytest.mark.slow),
    ],
)
def test_sound_subtitles_and_chapters_are_copied_or_encoded_and_said(
    copies, rich, tmp_path, capsys, suffix, sound, subtitles
):
    out = tmp_path / f"out{suffix}"
    assert restore(rich, out) == 0
    said = capsys.readouterr().err
    found = [one["codec_name"] for one in streams(out, "audio")]
    kinds = ("pcm_s16le", "flac", "wmav2", "aac")
    if suffix == ".mp4":
        # Versions of ffmpeg differ on which sound they copy into .mp4.
        sound = tuple(one if one in kinds else "aac" for one in found)
    assert found == list(sound)
    for number, (before, after) in enumerate(zip(kinds, sound, strict=True)):
        name = f"its sound (stream {number + 1}, {before}) does not fit into {suffix}"
        assert (name in said) == (before != after)
        heard = run_ffmpeg(
            *("-i", out, "-map", f"0:a:{number}", "-f", "s16le", "-ac", 1, "-ar", 8000, "-")
        )
        assert len(heard) == pytest.approx(16000, rel=0.1)
    found = streams(out, "subtitle")
    assert [one["codec_name"] for one in found] == ([subtitles] if subtitles else [])
    assert ("its subtitles (stream 5, subrip) does not fit" in said) == (subtitles != "subrip")
    if subtitles:
        assert found[0]["tags"]["language"] == "fra"
        assert b"First line" in run_ffmpeg("-i", out, "-map", "0:s", "-f", "srt", "-")
        # Opus begins before 0, so an encoder may move all streams together.
        gap = first_time(out, "s") - first_time(out, "v")
        assert gap == pytest.approx(first_time(rich, "s") - first_time(rich, "v"), abs=2e-3)
        assert first_time(out, "v") == pytest.approx(first_time(rich, "v"), abs=0.01)
        assert len(probe(out, "-show_chapters")["chapters"]) == 1
    else:
        assert "is left out" in said
    tags = probe(out, "-show_format")["format"]["tags"]
    assert {key.lower(): value for key, value in tags.items()}["title"] == "A title"


@pytest.mark.parametrize("source, target", [("in.avi", "out.mp4"), ("in.mov", "out.mov")])
def test_sound_without_compression(copies, tmp_path, source, target):
    sound = ["-f", "lavfi", "-i", "sine=duration=0.5", "-c:a", "pcm_s16le"]
    make_moving(tmp_path / source, *sound, frames=5)
    assert restore(tmp_path / source, tmp_path / target) == 0
    found = streams(tmp_path / target, "audio")
    # Later versions of ffmpeg can copy this sound into .mp4.
    assert found[0]["codec_name"] in ("pcm_s16le", *(["aac"] if "mp4" in target else []))
    assert len(times(tmp_path / target)) == 5


def test_a_turned_video_with_oblong_pixels(copies, tmp_path):
    first, source, out = (tmp_path / name for name in ("a.mp4", "in.mp4", "out.mp4"))
    make_moving(first, "-vf", "setsar=16/11")
    # Replaces the matrix of the track, the identity, by a turn of 90 degrees.
    data, identity = (
        first.read_bytes(),
        struct.pack(">9i", *np.diag([1 << 16, 1 << 16, 1 << 30]).flat),
    )
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    source.write_bytes(data[:at] + turn + data[at + len(turn) :])
    assert video_info.measure_video(source) == (64, 48, 8)
    assert restore(source, out) == 0
    found = streams(out)[0]
    assert (found["width"], found["height"]) == (48, 64)
    # Pixels that were wide are high after the turn.
    assert found["sample_aspect_ratio"] == "11:16"
    assert not found.get("side_data_list")


def test_a_cover_image_is_not_the_video(copies, tmp_path):
    cover, source, out = (tmp_path / name for name in ("cover.png", "in.mp4", "out.mp4"))
    run_ffmpeg("-f", "lavfi", "-i", "color=size=32x32", "-frames:v", 1, cover)
    more = ["-i", cover, "-map", "1", "-map", "0", "-c:v:0", "copy"]
    make_moving(source, *more, "-disposition:v:0", "attached_pic")
    assert video_info.measure_video(source) == (48, 64, 8)
    assert restore(source, out) == 0
    sizes = {(one["width"], one["height"]) for one in streams(out)}
    assert sizes == {(64, 48), (32, 32)}


def test_what_cannot_be_kept_is_said(copies, tmp_path, capsys):
    source = tmp_path / "in.mkv"
    raw = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10", "-frames:v", "3"]
    run_ffmpeg(*raw, "-c:v", "ffv1", "-pix_fmt", "yuva444p16le", source)
    assert restore(source, tmp_path / "out.mp4") == 0
    said = capsys.readouterr().err
    assert "its transparency is left out" in said and "its 16 bits become 10" in said
    assert streams(tmp_path / "out.mp4")[0]["pix_fmt"] == "yuv444p10le"


def test_a_wmv_with_fields_is_read_and_not_written(copies, tmp_path, capsys):
    source = tmp_path / "in.wmv"
    make_moving(source, "-c:v", "wmv2")
    assert restore(source, tmp_path / "out") == 0
    np.testing.assert_allclose(times(tmp_path / "out" / "in.mp4"), times(source), atol=1.1e-3)
    assert restore(source, tmp_path / "out.wmv") == 2
    assert "videos are written as .mp4" in capsys.readouterr().err
    fields = ["-vf", "setfield=tff", "-flags", "+ildct+ilme", "-c:v", "mpeg2video"]
    make_moving(tmp_path / "in.ts", *fields, rate="25")
    assert restore(tmp_path / "in.ts", tmp_path / "fields") == 0
    assert "it is interlaced" in capsys.readouterr().err


def test_failures_give_the_reason_of_ffmpeg(copies, tmp_path, capsys):
    source = tmp_path / "in.mp4"
    make_moving(source)
    (tmp_path / "broken.mp4").write_bytes(source.read_bytes()[:500])
    assert restore(tmp_path / "broken.mp4", tmp_path / "o.mp4") == 1
    assert "moov atom not found" in capsys.readouterr().err
    # The last line of these messages would be "Conversion failed!" or "Invalid argument".
    sound = ["-f", "lavfi", "-i", "sine=duration=0.1", "-c:a", "wmav2", f"{tmp_path}/x.mp4"]
    with pytest.raises(VideoError, match="Could not find tag for codec wmav2") as caught:
        ffmpeg.output_of([*ffmpeg.ffmpeg(), *sound], "ffmpeg")
    assert "Conversion failed" not in str(caught.value) and "@ 0x" not in str(caught.value)
    many = "\n".join(f"[h264 @ 0x12ab] message {n}" for n in range(9))
    assert ffmpeg.reason(many + "\nConversion failed!") == (
        "message 0; message 1; (5 more messages); message 7; message 8"
    )
    assert ffmpeg.reason("Conversion failed!") == "Conversion failed!"
    assert ffmpeg.reason("") == "no reason given"


def test_damage_in_a_video_is_said(copies, tmp_path, capsys):
    source = tmp_path / "in.mp4"
    make_moving(source, frames=12)
    packets = probe(source, "-select_streams", "v", "-show_packets")["packets"]
    data = bytearray(source.read_bytes())
    at, size = (int(packets[4][key]) for key in ("pos", "size"))
    data[at + size // 4 : at + size] = bytes(size - size // 4)
    source.write_bytes(data)
    assert restore(source, tmp_path / "out.mp4") == 0
    assert "ffmpeg reports on the source" in capsys.readouterr().err
