"""Studies that test the paper's claims: what is compared is data (:mod:`.catalogue`), what it says is computed.

``python -m benchmarks.studies`` lists them; ``docs/studies.md`` says what was found.
"""
