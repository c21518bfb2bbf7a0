"""The rule by which names of degraded, clean and restored images are partners."""

from __future__ import annotations

import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.data.partners import (
    CLEAN_WORDS,
    DEGRADED_WORDS,
    match_pairs,
    match_results,
    match_versions,
)


@pytest.mark.parametrize(
    "clean, degraded",
    [
        ("baby", "baby"),
        ("baby", "babyx2"),
        ("0001", "0001x4m"),
        ("img_1", "img_1_x3"),
        ("max2", "max2x2"),
        ("norain-001", "rain-001"),
        ("norain-1", "norain-1x2"),
        ("norain-1", "rain-1x2"),
        ("7_GT", "7_in"),
        ("7_clean", "7_rain"),
        ("img_001_SRF_2_HR", "img_001_SRF_2_LR"),
        ("0001_GT_SRGB_010", "0001_NOISY_SRGB_010"),
        ("normal00690", "low00690"),
        ("scene/9", "scene/9_input"),
        ("IMG_07", "img-7"),
        ("dog", "dog_lr"),
    ],
)
def test_partners(clean, degraded):
    match = match_pairs([clean], [degraded])
    assert match == ({clean: degraded}, {}, [])


@pytest.mark.parametrize(
    "clean, degraded",
    [
        ("baby", "baby_2"),
        ("s1_f11", "s1_f10"),
        ("a_x4", "a_x3"),
        ("img", "imgx2x2"),
        ("s1/a", "s2/a"),
        ("s1/a", "a"),
        ("rain-1", "norain-1"),
        ("cat", "dog"),
        ("hr", "lr"),
        ("1", "1_1"),
        ("clean", "1"),
        ("brain-1", "train-1"),
        ("baby", "baby_EDSR_x2"),
    ],
)
def test_no_partners(clean, degraded):
    match = match_pairs([clean], [degraded])
    assert match == ({}, {clean: []}, [degraded])


def test_the_documentation_names_the_words_of_both_sides():
    page = " ".join((pathlib.Path(__file__).parents[2] / "docs/evaluation.md").read_text().split())
    for side, words in (("degraded", DEGRADED_WORDS), ("clean", CLEAN_WORDS)):
        assert f"ords of the {side} side: `{' '.join(words)}`" in page


def test_exact_partners_come_first_and_a_file_is_used_once():
    match = match_pairs(["baby", "baby_2", "dog"], ["baby_2", "dog"])
    assert match == ({"baby_2": "baby_2", "dog": "dog"}, {"baby": []}, [])
    match = match_pairs(["img", "imgx2"], ["imgx2", "imgx2x2"])
    assert match == ({"imgx2": "imgx2"}, {"img": []}, ["imgx2x2"])


def test_a_choice_between_several_is_none():
    match = match_pairs(["1"], ["1_rain", "1_rainy"])
    assert match == ({}, {"1": ["1_rain", "1_rainy"]}, ["1_rain", "1_rainy"])
    # Both clean images could have it.
    assert match_pairs(["1", "1_clean"], ["1_rain"]).partners == {}


def test_several_degraded_images_of_each_clean_one():
    found, match = match_versions(["1", "10"], ["1_1", "1_14", "10_1_0.9"])
    assert found == {"1_1": "1", "1_14": "1", "10_1_0.9": "10"}
    assert match == ({}, {}, [])
    # "1_2_3" could belong to "1" and to "1_2"; "3_1" belongs to none; "2" has none.
    found, match = match_versions(["1", "1_2", "2"], ["1_1", "1_2_3", "3_1"])
    assert found == {"1_1": "1"}
    assert match == ({}, {"1_2": [], "2": []}, ["1_2_3", "3_1"])


def test_results_of_other_software_share_an_addition():
    match = match_results(["baby", "baby_2"], ["baby_RCAN_x2", "baby_2_RCAN_x2", "foo"])
    assert match.partners == {"baby": "baby_RCAN_x2", "baby_2": "baby_2_RCAN_x2"}
    assert match.extra == ["foo"] and not match.alone
    assert match_results(["baby"], ["baby_sr2"]).partners == {"baby": "baby_sr2"}
    assert match_results(["img_1"], ["img_1_SRF_2_SwinIR"]).partners
    for clean, results in (
        (["baby", "baby_2", "dog"], ["baby_2", "dog"]),
        (["s1"], ["s1_f10"]),
        (["s1", "s2"], ["s1_1", "s2_1"]),
        (["a", "b"], ["a_RCAN", "b_EDSR"]),
        (["a", "b"], ["a_RCAN", "b_RCAN", "a_EDSR", "b_EDSR"]),
    ):
        assert match_results(clean, results).alone, (clean, results)


NAMES = st.sets(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "s1/", "s2/"]),
        st.sampled_from(["", "norain-", "rain-", "clean_", "x"]),
        st.sampled_from(["baby", "baby_2", "f10", "f11", "f1", "1", "01", "2", "a-1", "A_1"]),
        st.sampled_from(["", "x2", "_x2", "_SRF_2_HR", "_LR", "_input", "_GT", "_3"]),
    ),
    max_size=12,
)


def core(name: str) -> tuple[str, list[str]]:
    """Returns the folder of a name, and its words and numbers without affixes, sorted."""
    folder, _, last = name.lower().rpartition("/")
    last = re.sub(r"[-_]?(x|srf_)[2348](?=$|[-_])", "", last)
    words = re.findall(r"\d+|[a-z]+", last)
    return folder, sorted(
        word.lstrip("0") for word in words if word not in {*DEGRADED_WORDS, *CLEAN_WORDS}
    )


@settings(max_examples=300, deadline=None)
@given(NAMES, NAMES)
def test_what_holds_of_every_match(clean, degraded):
    match = match_pairs(sorted(clean), sorted(degraded))
    used = list(match.partners.values())
    # A file is used once, and every file is either a partner or named.
    assert len(set(used)) == len(used)
    assert {*match.partners, *match.alone} == clean and not match.partners.keys() & match.alone
    assert {*used, *match.extra} == degraded and not set(used) & set(match.extra)
    # Exact partners come first.
    assert all(match.partners[name] == name for name in clean & degraded)
    # Numbers, words and folders agree apart from affixes.
    for one, other in match.partners.items():
        if one != other:
            assert core(one) == core(other)
    # The order of the names decides nothing.
    backwards = match_pairs(sorted(clean)[::-1], sorted(degraded)[::-1])
    assert backwards.partners == match.partners


@settings(max_examples=200, deadline=None)
@given(NAMES, st.sampled_from(["x2", "_LR", "_x4_lr", "_input"]))
def test_a_folder_whose_names_have_one_affix_is_never_matched_wrongly(names, affix):
    match = match_pairs(sorted(names), [name + affix for name in sorted(names)])
    # What is not refused is right.
    assert match.alone or match.partners == {name: name + affix for name in names}
    plain = {name for name in names if re.fullmatch("(s1/)?(baby|f1|2)", name)}
    assert match_pairs(plain, [name + affix for name in plain]).alone == {}
