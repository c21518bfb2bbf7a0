"""Published scores, to stand beside measured ones. PSNR in dB, on Y unless a label says RGB;
borders as for SR usual.
"""

from __future__ import annotations

# method -> scale -> Set5, Set14, B100, Urban100 (Chen et al., CVPR 2021, table 1; HAT: Chen et al.,
# CVPR 2023).
_SETS = ("set5", "set14", "b100", "urban100")
_SR: dict[str, dict[int, tuple[float | None, ...]]] = {
    "bicubic": {
        2: (33.66, 30.24, 29.56, 26.88),
        3: (30.39, 27.55, 27.21, 24.46),
        4: (28.42, 26.00, 25.96, 23.14),
    },
    "VDSR": {
        2: (37.53, 33.05, 31.90, 30.77),
        3: (33.67, 29.78, 28.83, 27.14),
        4: (31.35, 28.02, 27.29, 25.18),
    },
    "EDSR": {
        2: (38.11, 33.92, 32.32, 32.93),
        3: (34.65, 30.52, 29.25, 28.80),
        4: (32.46, 28.80, 27.71, 26.64),
    },
    "IPT": {
        2: (38.37, 34.43, 32.48, 33.76),
        3: (34.81, 30.85, 29.38, 29.49),
        4: (32.64, 29.01, 27.82, 27.26),
    },
    "IPT, pre-training only": {
        2: (38.28, 34.46, 32.48, 33.68),
        3: (34.66, 30.80, 29.32, 29.39),
        4: (32.58, 28.97, 27.79, 27.18),
    },
    "HAT-L, ImageNet": {
        2: (None, None, None, 35.09),
        3: (None, None, None, 30.92),
        4: (33.30, 29.47, 28.09, 28.60),
    },
}
_OTHER: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("cbsd68", "denoise30"): (
        ("CBM3D", "29.73 RGB"),
        ("FFDNet", "30.31 RGB"),
        ("DnCNN", "30.40 RGB"),
        ("IPT", "32.32, 30.75 RGB"),
    ),
    ("cbsd68", "denoise50"): (
        ("CBM3D", "27.38 RGB"),
        ("FFDNet", "27.96 RGB"),
        ("DnCNN", "28.01 RGB"),
        ("IPT", "29.88, 28.39 RGB"),
        ("Restormer", "28.60 RGB"),
    ),
    ("cbsd68", "denoise@10"): (("IPT", "38.30"),),
    ("cbsd68", "denoise@70"): (("IPT", "28.21"),),
    ("rain100l", "derain"): (
        ("input", "26.90 / .8384"),
        ("PReNet", "37.45 / .9790"),
        ("RCDNet", "40.00 / .9860"),
        ("IPT", "41.62 / .9880"),
    ),
    ("gopro", "deblur"): (("IPT", "32.52 to 32.58"),),
}


def published(set_name: str, task: str) -> list[tuple[str, str]]:
    """(method, score as text) for a set (canonical, lower case) and a task; [] where nothing is
    known.

    A sigma that the model was not trained for ("denoise50@70") is looked up by that sigma.
    """
    if task in ("sr2", "sr3", "sr4") and set_name in _SETS:
        place, scale = _SETS.index(set_name), int(task[2])
        found = [(method, rows[scale][place]) for method, rows in _SR.items()]
        return [(method, f"{value:.2f}") for method, value in found if value is not None]
    head, _, sigma = task.partition("@")
    key = f"denoise@{float(sigma):g}" if sigma else head
    return list(_OTHER.get((set_name, key), ()))
