"""Blur: against OpenCV, against shifted images, and by kernels from files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from textures import picture

from ipt_jax.degradations.blur import (
    GaussianBlur,
    KernelBlur,
    MotionBlur,
    blurred,
    gaussian_kernel,
    motion_kernel,
)


@pytest.mark.parametrize("length, angle", [(1, 0), (5, 0), (8, 90), (7, 45), (12, 33.3), (15, 170)])
def test_motion_blur_is_the_mean_of_shifted_pictures(length, angle):
    """OpenCV's bilinear weights have 5 bits, so its shifts are accurate to 1/64 pixel."""
    image = picture(length, 64, 72)
    total = np.zeros(image.shape, np.float64)
    for t in np.arange(length) - (length - 1) / 2:
        # Correlation moves what lies at +offset to the centre.
        dx, dy = t * np.cos(np.radians(angle)), -t * np.sin(np.radians(angle))
        shift = np.float64([[1, 0, -dx], [0, 1, -dy]])
        total += cv2.warpAffine(
            image.astype(np.float64),
            shift,
            (72, 64),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    ours = MotionBlur(length, angle)(image, np.random.default_rng(0))
    difference = np.abs(ours - total / length)[12:-12, 12:-12]
    assert difference.mean() < 0.5 and difference.max() < 6


def test_kernels_are_what_they_say():
    box = motion_kernel(5, 0)
    np.testing.assert_allclose(box[box.shape[0] // 2, 1:-1], 0.2, atol=1e-12)
    for length in (1, 4, 9.0, 20):
        for angle in (0, 17, 45, 90, 133):
            kernel = motion_kernel(int(length), angle)
            assert (
                kernel.sum() == pytest.approx(1) and kernel.min() >= 0 and kernel.shape[0] % 2 == 1
            )
            # A symmetric kernel does not move the image.
            np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-9)
            assert kernel.shape[0] // 2 <= MotionBlur(length, angle).margin + 1
    kernel = gaussian_kernel(2.0)
    y, x = np.mgrid[-6:7, -6:7]
    assert (kernel * x**2).sum() == pytest.approx(4, rel=0.03) and (
        kernel * y
    ).sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(
        blurred(picture(0, 20, 20), gaussian_kernel(0.0)), picture(0, 20, 20)
    )


def test_gaussian_blur_is_opencvs():
    image = picture(1, 50, 60)
    for sigma in (0.6, 1.5, 3.0):
        side = 2 * int(np.ceil(3 * sigma)) + 1
        theirs = cv2.GaussianBlur(
            image.astype(np.float64), (side, side), sigma, borderType=cv2.BORDER_REFLECT
        )
        assert (
            np.abs(GaussianBlur(sigma)(image, np.random.default_rng(0)) - theirs).max()
            <= 0.5 + 1e-5
        )


def test_kernel_files(tmp_path):
    image = picture(5, 40, 40)
    kernel = np.array([[0, 1, 0], [2, 4, 2], [0, 1, 0]], float)
    np.save(tmp_path / "k.npy", kernel)
    np.savetxt(tmp_path / "k.txt", kernel)
    cv2.imwrite(str(tmp_path / "k.png"), (kernel * 60).astype(np.uint8))
    expected = blurred(image, kernel / 10)
    for name in ("k.npy", "k.txt", "k.png"):
        degrade = KernelBlur(str(tmp_path / name))
        assert degrade.margin == 1
        np.testing.assert_array_equal(degrade(image, np.random.default_rng(0)), expected)
    np.save(tmp_path / "even.npy", np.ones((1, 4)))
    # Three of the four files hold the same kernel.
    assert (
        len(
            {
                KernelBlur(str(tmp_path))(image, np.random.default_rng(s)).tobytes()
                for s in range(30)
            }
        )
        == 2
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 3)), "all zero"),
        (-np.ones((3, 3)), "not negative"),
        (np.full((3, 3), np.nan), "finite"),
        (np.ones((3, 3, 3)), r"shape \(3, 3, 3\)"),
        (np.ones((301, 3)), "at most 201"),
        (None, "is no kernel"),
    ],
)
def test_a_file_that_is_no_kernel_is_named(content, message, tmp_path):
    file = tmp_path / "odd.npy"
    if content is None:
        file.write_bytes(b"not an array")
    else:
        np.save(file, content)
    with pytest.raises(ValueError, match=rf"odd.npy.*{message}"):
        KernelBlur(str(file))(picture(0, 20, 20), np.random.default_rng(0))
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        _ = KernelBlur(str(tmp_path / "none.npy")).margin
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no kernel"):
        _ = KernelBlur(str(tmp_path / "empty")).margin
