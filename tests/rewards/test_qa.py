"""Question answering: one normaliser, exact match, F1; multiple choice; the authors' metric beside them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_env.errors import ConfigError
from arpo_env.rewards.choice import choice_equal, option_letter
from arpo_env.rewards.paper import paper_f1
from arpo_env.rewards.qa import exact_match, f1, normalise, qa_equal, qa_f1, tokens
from arpo_env.rewards.verifiers import VERIFIERS, get_verifier

EQUAL = [
    ("E.H. Shepard", "E. H. Shepard"),
    ("E H Shepard", "E.H. Shepard"),
    ("JRR Tolkien", "J. R. R. Tolkien"),
    ("U.S.A.", "USA"),
    ("the Beatles", "Beatles"),
    ("The Who", "Who"),
    ("A", "A"),
    ("a", "A"),
    ("The", "the"),
    ("AC Milan", "A.C. Milan"),
    ("Washington, D.C.", "washington dc"),
    ("New York City.", "New York City"),
    ("June 29, 2007", "June\xa029, 2007"),
    ("3,182", "3182"),
    ("1,234.50", "1234.50"),
    ("50%", "50 percent"),
    ("O'Brien", "OBrien"),
    ("don’t", "don't"),
    ("co-op", "co op"),
    ("twenty-one", "twenty one"),
    ("1.95 m", "1.95m"),
    (r"\text{Paris}", "Paris"),
    (r"$\text{Paris}$", "Paris"),
    (r"\textbf{The Hague}", "Hague"),
    ("−5", "-5"),
    ("Ｐａｒｉｓ", "Paris"),
    ("STRASSE", "straße"),
    ('"Violetta"', "Violetta"),
    ("Châteauneuf-du-Pape", "châteauneuf du pape"),
    ("2024年10月27日", "2024 年 10 月 27 日"),
    ("肖亮", "肖亮。"),
    ("《梦想世界3》手游", "梦想世界3手游"),
    ("中南大学 国家示范性软件学院", "中南大学国家示范性软件学院"),
    ("陈俊亮、王莉", "陈俊亮，王莉"),
    ("（北京）", "北京"),
    ("曹光彪东楼５０２室", "曹光彪东楼502室"),
    ("“合格”", "合格"),
    ("ＣＱＣ认证", "CQC认证"),
    ("東京 タワー", "東京タワー"),
    ("a K-pop star", "K-pop star"),
    ("??", "??"),
    (r"\)", r"\)"),
    ("Frank Fertitta Jr.", "Frank Fertitta, Jr."),
    ("Tom & Jerry", "Tom, Jerry"),
    ("１９９９", "1999"),
    ("O−", "O-"),
    ("Na⁺", "Na+"),
    ("(A+)", "A+"),
    ("< 5", "<5"),
    ("Jeopardy!", "Jeopardy"),
    ("Disney+", "Disney"),
    ("क़िला", "क\u093cिला"),
    ("1\ufe0f\u20e3", "1"),
]
UNEQUAL = [
    ("A", "B"),
    ("", "the"),
    ("the", "a"),
    ("15", "1.5"),
    ("5", "-5"),
    ("1998", "1999"),
    ("Hepatitis A", "Hepatitis B"),
    ("C", "C++"),
    ("C#", "C"),
    ("Hepatitis", "Hepatitis A"),
    ("肖亮", "肖明"),
    ("亮肖", "肖亮"),
    ("北京", "北京市"),
    ("2023年7月6日", "2023年7月16日"),
    ("东楼502室", "东楼520室"),
    ("不合格", "合格"),
    ("一", "二"),
    ("yes", "no"),
    ("2003", "1998-2003"),
    ("", "Paris"),
    (" ", "Paris"),
    ("Paris France", "Paris"),
    ("not Paris", "Paris"),
    ("50", "50%"),
    ("0.5", "5"),
    ("O-", "O+"),
    ("O", "O-"),
    ("A", "A+"),
    ("AB-", "AB+"),
    ("18", "18+"),
    ("5", "<5"),
    ("x<5", "x>5"),
    ("a ≤ b", "a ≥ b"),
    ("2", "√2"),
    ("5", "±5"),
    ("5!", "5"),
    ("n", "n!"),
    ("किला", "काला"),  # fort, black: they differ by their vowels alone
    ("กิน", "กน"),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_same_answer(answer: str, gold: str) -> None:
    assert exact_match(answer, [gold]), (tokens(answer), tokens(gold))
    assert exact_match(gold, [answer])
    assert f1(answer, [gold]) == 1.0


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_other_answer(answer: str, gold: str) -> None:
    assert not exact_match(answer, [gold]), (tokens(answer), tokens(gold))


def test_any_gold_counts() -> None:
    assert exact_match("NYC", ["New York City", "NYC"])
    assert f1("New York", ["NYC", "New York City"]) == pytest.approx(0.8)
    assert qa_equal("NYC", ["NYC"]).score == 1
    assert qa_equal("", ["NYC"]).reason == "empty answer"


def test_f1_by_hand() -> None:
    assert f1("the big red dog", ["red dog house"]) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    assert f1("北京大学", ["北京"]) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert f1("cat", ["dog"]) == 0
    assert f1("", ["dog"]) == 0
    assert f1("no it is not", ["no"]) == 0  # closed answers are right or wrong
    assert 0 < qa_f1("red dog", ["dog"]).score < 1


def test_bad_golds() -> None:
    for wrong in ("Paris", []):
        with pytest.raises(ConfigError):
            exact_match("Paris", wrong)
        with pytest.raises(ConfigError):
            f1("Paris", wrong)


words = st.lists(st.text(string.ascii_letters + "éüßñ", min_size=2, max_size=9), min_size=1, max_size=6)


@settings(deadline=None)
@given(words, st.lists(st.sampled_from([" ", "  ", ", ", ". ", " - ", "; ", "\t"]), min_size=6, max_size=6))
def test_case_and_punctuation_do_not_matter(parts: list[str], gaps: list[str]) -> None:
    plain = " ".join(parts)
    dressed = "".join(part.swapcase() + gap for part, gap in zip(parts, gaps, strict=False))
    assert exact_match(dressed, [plain])
    assert f1(dressed, [plain]) == 1.0


@settings(deadline=None)
@given(st.text(max_size=80))
def test_normalising_twice_changes_nothing_and_reflexive(text: str) -> None:
    assert exact_match(text, [text]) == bool(text.strip())
    assert all(token for token in tokens(text))
    assert 0.0 <= f1(text, [text]) <= 1.0


@settings(deadline=None)
@given(st.text("abc de12.,-'", max_size=40), st.text("abc de12.,-'", max_size=40))
def test_f1_is_symmetric_and_bounded(a: str, b: str) -> None:
    assert 0.0 <= f1(a, [b]) <= 1.0
    assert f1(a, [b]) == pytest.approx(f1(b, [a]))
    if exact_match(a, [b]):
        assert f1(a, [b]) == 1.0


@settings(deadline=None)
@given(st.integers(), st.integers())
def test_distinct_numbers_differ(a: int, b: int) -> None:
    assert exact_match(str(a), [str(b)]) == (a == b)


@pytest.mark.parametrize("text", ["a-" * 300_000, "1," * 300_000, "\\text{" * 100_000, "%1" * 300_000, "a " * 300_000,
                                  "< " * 300_000, "का" * 300_000, "a!" * 300_000, "a+" * 300_000])  # fmt: skip
def test_a_long_text_is_read_in_linear_time(text: str) -> None:
    assert normalise(text)


def test_choice() -> None:
    for text in ("B", "(b)", "B.", "B) 42", "Option B: 42", r"\text{(B)}", "(B) a dog", "answer: B"):
        assert option_letter(text) == "B", text
        assert choice_equal(text, ["B"]).score == 1
        assert choice_equal(text, ["C"]).score == 0
    for text in ("Bees", "B and C", "b,c", "(B) (C)", "B/C", "", "42", "B or C", "x" * 10**6):
        assert option_letter(text) is None, text
        assert choice_equal(text, ["B"]).score == 0
    assert choice_equal("forty two", ["Forty-two"]).score == 1


def test_a_long_answer_to_a_choice_is_read_in_linear_time_or_not_at_all() -> None:
    blanks = " " * 10**5
    for head in ("option", "", "\\text{", "(", "answer:", "(b", "b"):
        assert option_letter(f"{head}{blanks}!") is None, head
    for head, tail in (("option", "B"), ("", "B"), ("\\text{", "B}"), ("(", "b)"), ("(b", ")"), ("answer:", "b) 4")):
        text = f"{head}{blanks}{tail}"
        assert option_letter(text) == "B", head
        assert choice_equal(text, ["B"]).reason == f"answer of {len(text)} characters is too long"
    assert choice_equal(f"B{blanks}", [f"B{blanks}"]).score == 1
    assert choice_equal("B" + " " * 4999, ["B"]).score == 1


def test_the_authors_metric_is_kept_as_it_is() -> None:
    assert paper_f1("5", "-5") == 1  # the reasons not to train on it
    assert paper_f1("15", "1.5") == 1
    assert paper_f1("0.5", r"\frac{1}{2}") == 0
    assert paper_f1("A", "A") == 0
    assert paper_f1("the cat", ["cat"]) == 1
    assert paper_f1("yes indeed", "yes") == 0
    assert paper_f1("", "x") == 0
    # Ours, on the same pairs:
    assert exact_match("A", ["A"])
    assert not exact_match("5", ["-5"])
    assert not exact_match("15", ["1.5"])


def test_the_table_of_verifiers() -> None:
    assert set(VERIFIERS) == {"math", "qa", "qa_f1", "choice", "mixed", "paper"}
    for name in VERIFIERS:
        assert get_verifier(name)("7", ["7"]).score == 1
        assert get_verifier(name)("", ["7"]).score == 0
    with pytest.raises(ConfigError, match="did you mean 'math'"):
        get_verifier("maths")
