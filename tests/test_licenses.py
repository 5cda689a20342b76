"""Licences: which words take which of them, labels of collections, and ATTRIBUTION.md."""

from __future__ import annotations

import random
import re
import time

import pytest
from g3d.errors import ConfigError
from g3d.manifests.records import AssetRecord
from g3d.pipeline.attribution import attribution
from g3d.pipeline.sources.licenses import (
    GROUPS,
    SHORT_NAMES,
    UNKNOWN,
    facts_of,
    family_of,
    parse_policy,
    spdx_of_label,
)
from hypothesis import given, settings
from hypothesis import strategies as st

CC = [f"CC-{code}-{version}" for code in ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND")
      for version in ("2.0", "3.0", "4.0")]  # fmt: skip
CODE = ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "Unlicense", "GPL-3.0-only"]
ALL = [*CC, *CODE, "CC0-1.0", "LicenseRef-ShapeNet", "LicenseRef-Other", UNKNOWN]


def taken(*words: str) -> set[str]:
    policy = parse_policy(words)
    return {name for name in ALL if policy.allows(name)}


def test_no_word_takes_all() -> None:
    assert taken() == set(ALL)
    assert taken("", " , ") == set(ALL)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("cc0",), {"CC0-1.0"}),
        (("by",), {"CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}),
        (("cc-by",), {"CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}),
        (("BY-NC-SA",), {"CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0"}),
        (("CC-BY-4.0", "mit"), {"CC-BY-4.0", "MIT"}),
        (("cc0,mit",), {"CC0-1.0", "MIT"}),
        (("bsd",), {"BSD-2-Clause", "BSD-3-Clause"}),
        (("bsd-3-clause",), {"BSD-3-Clause"}),
        (("gpl-3.0-only",), {"GPL-3.0-only"}),
        (("shapenet", "unknown"), {"LicenseRef-ShapeNet", UNKNOWN}),
        (("LicenseRef-Other",), {"LicenseRef-Other"}),
    ],
)
def test_words(words: tuple[str, ...], expected: set[str]) -> None:
    assert taken(*words) == expected


def test_groups() -> None:
    open_ = taken("open")
    assert open_ == {n for n in CC if "-NC" not in n and "-ND" not in n} | {
        "CC0-1.0", "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "Unlicense",
    }  # fmt: skip
    assert taken("research") == open_ | set(CC) | {"LicenseRef-ShapeNet"}
    for name in open_:
        assert facts_of(name).no_commercial is False
        assert facts_of(name).no_derivatives is False


def test_unknown_word() -> None:
    with pytest.raises(ConfigError, match=r"unknown licence 'by-na', did you mean 'by-") as caught:
        parse_policy(("cc0", "by-na"))
    assert "by-nc-sa" in str(caught.value.hint)
    for word in ("all", "CC-BY-9.0", "open-", "licenseref-", "*"):
        with pytest.raises(ConfigError, match="unknown licence"):
            parse_policy((word,))


words = st.lists(st.sampled_from([*SHORT_NAMES, *GROUPS, *CC, "MIT"]), min_size=1, max_size=5)


@settings(max_examples=60)
@given(words, words, st.sampled_from(ALL))
def test_words_add_up(one: list[str], two: list[str], name: str) -> None:
    both = parse_policy((*one, *two)).allows(name)
    assert both == (parse_policy(tuple(one)).allows(name) or parse_policy(tuple(two)).allows(name))
    assert parse_policy((",".join([*two, *one]).upper(),)).allows(name) == both


@given(words)
def test_unknown_licences_have_to_be_named(chosen: list[str]) -> None:
    assert parse_policy(tuple(chosen)).allows(UNKNOWN) == (UNKNOWN in chosen)


@given(st.sampled_from(ALL))
def test_own_name_takes_every_licence(name: str) -> None:
    assert parse_policy((name,)).allows(name)
    family = family_of(name)
    assert not family or parse_policy((family,)).allows(name)
    assert family_of(name.lower()) == family


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("by", "CC-BY-4.0"), ("by-nc-sa", "CC-BY-NC-SA-4.0"), ("by-nd", "CC-BY-ND-4.0"),
        ("cc0", "CC0-1.0"), ("CC0", "CC0-1.0"), ("", UNKNOWN), ("None", UNKNOWN), ("ed", UNKNOWN),
        ("MIT License", "MIT"), ("mit", "MIT"), ("Apache License 2.0", "Apache-2.0"),
        ('BSD 3-Clause "New" or "Revised" License', "BSD-3-Clause"), ("Other", UNKNOWN),
        ("GNU General Public License v3.0", "GPL-3.0-only"), ("GNU - GPL", UNKNOWN),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0"),
        ("Creative Commons - Attribution", "CC-BY-4.0"),
        ("Creative Commons - Attribution - Share Alike", "CC-BY-SA-4.0"),
        ("Creative Commons - Attribution - Non-Commercial", "CC-BY-NC-4.0"),
        ("Creative Commons - Attribution - Non-Commercial - No Derivatives", "CC-BY-NC-ND-4.0"),
        ("Creative Commons - Public Domain Dedication", "CC0-1.0"),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0"),
        ("Creative Commons Attribution Share Alike 3.0 Unported", "CC-BY-SA-3.0"),
        ("All Rights Reserved", UNKNOWN), ("by the author", UNKNOWN), ("free", UNKNOWN),
    ],
)  # fmt: skip
def test_labels_of_collections(label: str, expected: str) -> None:
    assert spdx_of_label(label) == expected


def test_facts() -> None:
    assert facts_of("CC-BY-NC-ND-3.0").url == "https://creativecommons.org/licenses/by-nc-nd/3.0/"
    asked = facts_of("CC-BY-SA-4.0")
    assert (asked.attribution, asked.no_commercial, asked.no_derivatives, asked.share_alike) == (
        True, False, False, True,
    )  # fmt: skip
    assert facts_of("CC0-1.0").attribution is False
    assert facts_of("GPL-3.0-only").share_alike is True
    assert facts_of(UNKNOWN) == facts_of("LicenseRef-Other")
    assert facts_of(UNKNOWN).no_commercial is None


# --- ATTRIBUTION.md --------------------------------------------------------------------------


def record(n: int, license_: str = "CC-BY-4.0", **more: object) -> AssetRecord:
    values = {
        "uid": f"a{n:05d}", "source": "folder", "source_id": f"models/{n}.glb",
        "category": "car", "license": license_, "author": "Ann Example", "title": f"Car {n}",
        "url": f"https://example.org/{n}", "sha256": "0" * 64, "split": "train",
        "status": "accepted",
    }  # fmt: skip
    return AssetRecord.model_validate(values | more)


def test_attribution_names_every_accepted_asset() -> None:
    records = [
        record(2), record(1, "CC0-1.0", author="", url=""), record(3, status="rejected"),
        record(4, "unknown", title="", url="file:///secret"), record(0),
    ]  # fmt: skip
    text = attribution(records)
    lines = text.splitlines()
    assert "This dataset was made from 4 assets." in lines
    cc = "https://creativecommons.org"
    assert f"| [CC-BY-4.0](<{cc}/licenses/by/4.0/>) | 2 | yes | no | no | no |" in lines
    assert f"| [CC0-1.0](<{cc}/publicdomain/zero/1.0/>) | 1 | no | no | no | no |" in lines
    assert lines.index("## CC-BY-4.0") < lines.index("## CC0-1.0") < lines.index("## unknown")
    first, second = (
        lines.index(f"- [Car {n}](<https://example.org/{n}>) by Ann Example, CC-BY-4.0")
        for n in (0, 2)
    )
    assert first < second
    assert "- Car 1, CC0-1.0" in lines
    assert "- models/4.glb by Ann Example, unknown" in lines
    assert "Car 3" not in text
    assert "secret" not in text


def test_order_of_records_does_not_matter() -> None:
    records = [record(n, ALL[n % len(ALL)]) for n in range(60)]
    text = attribution(records)
    random.Random(1).shuffle(records)
    assert attribution(records) == text


@pytest.mark.parametrize(
    ("licenses", "told", "silent"),
    [
        (["CC-BY-4.0", "CC0-1.0", "MIT"], [], ["Take care"]),
        (["CC-BY-NC-4.0"], ["1 asset (CC-BY-NC-4.0): commercial use is forbidden"], ["rendered"]),
        (["CC-BY-ND-4.0"], ["rendered images are changed copies", "--license open"], ["commercial use is"]),  # noqa: E501
        (["CC-BY-SA-4.0", "CC-BY-4.0"], ["under the same licence."], ["satisfies all"]),
        (["CC-BY-SA-4.0", "CC-BY-SA-3.0"], ["2 assets"], ["satisfies all"]),
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], ["satisfies all of them"], []),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], ["satisfies all of them"], []),
        (["LicenseRef-ShapeNet"], ["may be passed on", "commercial use is forbidden"], ["A generator that is trained on them may"]),  # noqa: E501
        (["unknown"], ["nothing is known here"], ["commercial use is"]),
    ],
)  # fmt: skip
def test_warnings(licenses: list[str], told: list[str], silent: list[str]) -> None:
    text = attribution([record(n, name) for n, name in enumerate(licenses)])
    for words_ in told:
        assert words_ in text
    for words_ in silent:
        assert words_ not in text


def test_collections_are_named() -> None:
    text = attribution([record(1, source="objaverse"), record(2, source="folder")])
    assert "ODC-By-1.0" in text
    assert "ShapeNet" not in text
    assert "This dataset holds no assets." in attribution([record(1, status="failed")])


def test_text_of_authors_stays_text() -> None:
    bad = "](https://x.org) <script>*a*_b_`c`\n# Head\n| x | &copy; \u202e\u2028 $m$ www.x.org"
    text = attribution([record(1, title=bad, author=bad, url="https://e.org/a b>)<c\\"),
                        record(2, url="javascript:alert(1)"),
                        record(3, url="https://e.org/\u2028x")])  # fmt: skip
    line = next(one for one in text.splitlines() if "script" in one)
    assert line.startswith(
        "- [\\](https\\://x.org) \\<script\\>\\*a\\*\\_b\\_\\`c\\` \\# Head \\| x"
    )
    assert "(<https://e.org/a%20b%3E)%3Cc%5C>)" in line
    assert "\u202e" not in text
    assert "\u2028" not in text
    assert "javascript" not in text
    assert "www.x.org" not in text
    assert "- Car 3 by Ann" in text


@settings(max_examples=60)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_one_line(title: str, author: str, path: str) -> None:
    text = attribution([record(1, title=title, author=author, url=f"https://e.org/{path}")])
    plain = attribution([record(1)])
    assert len(text.splitlines()) == len(plain.splitlines())
    line = text.splitlines()[-1]
    assert line.startswith("- ")
    assert line.endswith(", CC-BY-4.0")
    inner = re.sub(r"\\.|\]\(<[^<>]*>\)", "", line[2:].removeprefix("["))
    assert not set(inner) & set("[]<>`*_|&#~$")


def test_many_assets_in_time() -> None:
    records = [record(n, CC[n % len(CC)], title=f"Car [{n}] *new*") for n in range(50_000)]
    start = time.process_time()
    text = attribution(records)
    assert time.process_time() - start < 2.0
    assert text.count("\n- [Car") == 50_000
