"""Which image belongs to which clean image, decided by names alone.

A name is a path below the folder of its side, without the suffix: "baby", or "s1/f10" in a folder
of a scene. `match_pairs` is for degraded images, `match_versions` for sets with several degraded
images of each clean one, `match_results` for images that other software restored.

The rule for pairs. Each file is used once. The steps follow each other, and a step sees only the
files that the steps before it left:

1. Equal names are partners.
2. Names that are equal without a scale are partners: `babyx2`, `baby_x2` or `baby_SRF_2` for
   `baby`. The scale is taken off degraded images only, and one at most.
3. Names that are equal without a scale and without a word for the side are partners: `rain-1` and
   `norain-1`, `1_in` and `1_GT`, `7_NOISY_2` and `7_GT_2`. One word is taken off a name at most;
   `DEGRADED_WORDS` are taken off degraded images only, `CLEAN_WORDS` off clean images only.
4. Names that agree after step 3 in all their words and numbers are partners, whatever separates
   these words, in upper or lower case, with or without leading zeros: `IMG_07` and `img-7`.

The folders in front of the name must be equal. A file for which a step finds several partners has
none. Nothing else is compared: neither parts of names nor single numbers.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from ipt_jax.messages import listed

_DEGRADED_SIDE = (
    "lr lrbi lq low input in rain rainy noisy noise blur blurry hazy haze degraded bicubic"
)
_CLEAN_SIDE = (
    "hr hq gt high normal target clean norain sharp clear groundtruth ground_truth original"
)
# Words that name the degraded and the clean side of a pair, lower case.
DEGRADED_WORDS, CLEAN_WORDS = tuple(_DEGRADED_SIDE.split()), tuple(_CLEAN_SIDE.split())


def _word_of(words: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern that finds these words, but not within other words."""
    return re.compile(rf"(?<![^\W\d_])({'|'.join(words)})(?![^\W\d_])", re.IGNORECASE)


_DEGRADED, _CLEAN = _word_of(DEGRADED_WORDS), _word_of(CLEAN_WORDS)
# A scale within a name.
_SCALE = re.compile(
    r"([-_. ]?x(?:2|3|4|8|16)[mdw]?|[-_. ]srf[-_]?(?:2|3|4|8|16))(?=$|[-_. ])",
    re.IGNORECASE | re.ASCII,
)
# The names of tasks, which `ipt restore` and others put after a name.
_TASK = re.compile(r"(sr|photo|denoise|jpeg|derain|deblur)\d*", re.IGNORECASE | re.ASCII)
_TOKEN = re.compile(r"\d+|[^\W\d_]+")


class Match(NamedTuple):
    """The result of matching the names of two folders.

    Attributes:
      partners: name of a clean image -> name of its partner.
      alone: names of clean images without a partner -> the names between which the rule could not
        decide, if any.
      extra: names of the other folder without a clean image.
    """

    partners: dict[str, str]
    alone: dict[str, list[str]]
    extra: list[str]


def match_pairs(clean: Iterable[str], degraded: Iterable[str]) -> Match:
    """Matches degraded with clean images by the rule of this module.

    Args:
      clean: names of the clean images, each once.
      degraded: names of the degraded images, each once.
    """
    partners: dict[str, str] = {}
    # A dict keeps the order of the names.
    alone, extra = dict.fromkeys(clean), dict.fromkeys(degraded)
    undecided: dict[str, list[str]] = {}
    for forms, key in _STEPS:
        there: dict[Hashable, set[str]] = collections.defaultdict(set)
        for name in extra:
            for form in forms(name, True):
                there[key(form)].add(name)
        fits = {
            name: {other for form in forms(name, False) for other in there.get(key(form), ())}
            for name in alone
        }
        claims = collections.Counter(other for found in fits.values() for other in found)
        for name, found in fits.items():
            (other,) = found if len(found) == 1 else ("",)
            if found and claims[other] == 1:
                partners[name] = other
                del alone[name], extra[other]
            elif found:
                undecided[name] = sorted(found)
    return Match(partners, {name: undecided.get(name, []) for name in alone}, list(extra))


def match_versions(clean: Iterable[str], degraded: Iterable[str]) -> tuple[dict[str, str], Match]:
    """Matches several degraded images with each clean one, as in Rain1400 and RESIDE.

    A degraded image has the name of its clean image and one or more numbers after it: `7_1` to
    `7_14` for `7`, or `7_1_0.9`.

    Returns:
      Name of a degraded image -> name of its clean image; and what has no partner (`partners` is
      empty there).
    """
    names = dict.fromkeys(clean)
    found: dict[str, str] = {}
    extra = []
    for name in degraded:
        fits = [start for start in _starts(name) if start in names]
        if len(fits) == 1:
            found[name] = fits[0]
        else:
            extra.append(name)
    used = set(found.values())
    return found, Match({}, {name: [] for name in names if name not in used}, extra)


def match_results(clean: Iterable[str], results: Iterable[str]) -> Match:
    """Matches images that other software restored with clean images.

    The rule is that of pairs. Of the names that it leaves, those are partners that have the same
    addition for all remaining clean images: `baby_RCAN_x2` and `head_RCAN_x2` for `baby` and
    `head`. Numbers of an addition belong to a scale, a task or a word (`SwinIR-M48`).
    """
    first = match_pairs(clean, results)
    there = set(first.extra)
    if not first.alone:
        return first
    begins = next(iter(first.alone))
    additions = [
        name.removeprefix(begins)
        for name in first.extra
        if name.startswith(begins) and _is_addition(name.removeprefix(begins), len(first.alone))
    ]
    common = [end for end in additions if all(name + end in there for name in first.alone)]
    if len(common) != 1:
        undecided = {begins: [begins + end for end in common]} if common else {}
        return first._replace(alone=first.alone | undecided)
    partners = {name: name + common[0] for name in first.alone}
    used = set(partners.values())
    return Match(first.partners | partners, {}, [name for name in first.extra if name not in used])


def _is_addition(text: str, images: int) -> bool:
    """Returns whether a text can follow the names of all images of a set.

    A word with a number in it, such as a frame's "f10", counts only if several images have it.
    """
    if not text.startswith(("_", "-", ".", " ", "x", "X")):
        return False
    parts = [part for part in re.split(r"[-_. ]", _SCALE.sub("", text, count=1)) if part]
    return all(
        _TASK.fullmatch(part) or (part[0].isalpha() and (images > 1 or not re.search(r"\d", part)))
        for part in parts
    )


def _split(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    return folder + slash, last


def _as_is(name: str, degraded: bool) -> set[str]:
    return {name}


def _without_scale(name: str, degraded: bool) -> set[str]:
    """Returns the name, and the name of a degraded image without each of the scales in it."""
    folder, last = _split(name)
    forms = {last}
    for found in _SCALE.finditer(last) if degraded else ():
        forms.add(last[: found.start()] + last[found.end() :])
    return {folder + form for form in forms if form == last or _TOKEN.search(form)}


def _without_affixes(name: str, degraded: bool) -> set[str]:
    """Returns the name without a scale, without a word for its side, and without both."""
    forms = _without_scale(name, degraded)
    for form in list(forms):
        folder, last = _split(form)
        for found in (_DEGRADED if degraded else _CLEAN).finditer(last):
            before, after = last[: found.start()], last[found.end() :]
            # One separator goes with the word: that after it at the start, else that before it.
            rest = re.sub("[-_. ]$", "", before) + after if before else re.sub("^[-_. ]", "", after)
            if _TOKEN.search(rest):
                forms.add(folder + rest)
    return forms


def _words_and_numbers(name: str) -> Hashable:
    folder, last = _split(name)
    return folder, tuple(
        str(int(part)) if part.isdecimal() else part for part in _TOKEN.findall(last.lower())
    )


def _starts(name: str) -> list[str]:
    """Returns the name without its last number, without its last two numbers, and so on."""
    starts = []
    while found := re.fullmatch(r"(.+?)[-_]\d+(\.\d+)?", name, re.DOTALL):
        name = found[1]
        starts.append(name)
    return starts


# The steps of the rule: the forms of a name that are compared, and how they are compared.
_STEPS: tuple[tuple[Callable[[str, bool], set[str]], Callable[[str], Hashable]], ...] = (
    (_as_is, str),
    (_without_scale, str),
    (_without_affixes, str),
    (_without_affixes, _words_and_numbers),
)


def explain(match: Match, what: str, there: Iterable[str]) -> str:
    """Returns what has no partner, for a message; "" if everything has one.

    Args:
      match: the result.
      what: names the kind of file in the other folder.
      there: names in the other folder.
    """
    parts = []
    if match.alone:
        missing = [
            name + (f" ({', '.join(fits[:3])}?)" if fits else "")
            for name, fits in match.alone.items()
        ]
        parts.append(f"no {what} for {listed(missing)}; there: {listed(there) or 'nothing'}")
    if match.extra:
        parts.append(f"no clean image for {listed(match.extra)}")
    return "; ".join(parts)
