"""The tokeniser of search: laws for any text, and the scripts that matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_env.search.text import terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The founder of Brim-Co, José (1932)", ["the", "founder", "of", "brim", "co", "jose", "1932"]),
        ("Ｂｒｉｍ ①", ["brim", "1"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("北京市", ["北京", "京市"]),
        ("王", ["王"]),
        ("北京Beijing大学", ["北京", "beijing", "大学"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("한국어", ["한국", "국어"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Ёлка ёлка", ["елка", "елка"]),
        ("snake_case a.b", ["snake", "case", "a", "b"]),
        ("", []),
        ("!?… 🙂 \x00\ud800", []),
    ],
)
def test_terms_of_known_texts(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@given(st.text(), st.text())
def test_a_blank_parts_texts(a: str, b: str) -> None:
    assert terms(f"{a} {b}") == terms(a) + terms(b)


@given(st.text())
def test_terms_are_words_and_find_themselves(text: str) -> None:
    for term in terms(text):
        assert term
        assert not any(char.isspace() for char in term)
        assert terms(term) == [term]


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_case_never_matters_and_the_fast_path_agrees(text: str) -> None:
    assert terms(text.upper()) == terms(text.lower()) == terms(text)
    # One accented letter sends the text through the Unicode path.
    assert terms(text + " é") == [*terms(text), "e"]
