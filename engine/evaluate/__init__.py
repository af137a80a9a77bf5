"""Measures strategies, and diffusers' own pipelines on the same weights, over many edits.

``softpaint evaluate`` is its face. From Python::

    suite = open_suite("pocket", first_seed=1_050_000, size=128)
    cases = {task: suite.cases(task, 20) for task in ("removal", "insertion")}
    plan = Plan(first_seed=1_050_000, steps=15, guidance=5.0, seed=0)
    variants, peers = choose(engine, None, diffusers=True)
    store = Store(Path("report"), plan.settings())
    rows = evaluate(engine, plan, cases, variants=variants, peers=peers, store=store)
    write_text("summary.json", summary_json(rows))
"""

from engine.evaluate.bench import evaluate
from engine.evaluate.judges import Judges, judge
from engine.evaluate.plan import Plan, Variant, choose
from engine.evaluate.store import (
    Row,
    Store,
    Summary,
    markdown,
    rows_csv,
    summarise,
    summary_json,
)
from engine.evaluate.suites import Case, Suite, open_suite, patches

__all__ = [
    "Case",
    "Judges",
    "Plan",
    "Row",
    "Store",
    "Suite",
    "Summary",
    "Variant",
    "choose",
    "evaluate",
    "judge",
    "markdown",
    "open_suite",
    "patches",
    "rows_csv",
    "summarise",
    "summary_json",
]
