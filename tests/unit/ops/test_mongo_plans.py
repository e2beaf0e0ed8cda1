"""Plans are read from the answers of MongoDB 5 to 8, in the shapes that its manual documents.

https://www.mongodb.com/docs/manual/reference/explain-results/
"""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.ops.mongo_plans import ID_INDEX, Plan, read_plan

SCAN: dict[str, Any] = {"stage": "IXSCAN", "keyPattern": {"_id": 1}, "indexName": "_id_", "direction": "forward"}
FETCH: dict[str, Any] = {"stage": "FETCH", "filter": {"a": {"$eq": 1}}, "inputStage": SCAN}
STATS = {"executionSuccess": True, "nReturned": 2, "totalKeysExamined": 9, "totalDocsExamined": 7}
CLASSIC = {"explainVersion": "1", "queryPlanner": {"winningPlan": FETCH, "rejectedPlans": [{"stage": "COLLSCAN"}]}}
FETCHED = (("FETCH", "IXSCAN"), ("_id_",))

ANSWERS = {
    "the classic engine of 5 to 8": (CLASSIC | {"executionStats": STATS}, Plan(*FETCHED, 7, 2)),
    "a plan without a run": (CLASSIC, Plan(*FETCHED)),
    "the slot-based engine of 6 and later": (
        {
            "explainVersion": "2",
            "queryPlanner": {
                "winningPlan": {
                    "queryPlan": {"stage": "GROUP", "planNodeId": 3, "inputStage": {"stage": "COLLSCAN"}},
                    "slotBasedPlan": {"slots": "$$RESULT=s7", "stages": "[2] mkbson s7 ..."},
                },
                "rejectedPlans": [],
            },
            "executionStats": STATS | {"executionStages": {"stage": "mkobj", "inputStage": {"stage": "scan"}}},
        },
        Plan(("GROUP", "COLLSCAN"), (), 7, 2),
    ),
    "an aggregation whose first stage is a cursor": (
        {
            "stages": [
                {"$cursor": {"queryPlanner": {"winningPlan": FETCH}, "executionStats": STATS}, "nReturned": 2},
                {"$group": {"_id": "$const"}},
            ]
        },
        Plan(*FETCHED, 7, 2),
    ),
    "a query of two shards": (
        {
            "queryPlanner": {
                "winningPlan": {
                    "stage": "SHARD_MERGE_SORT",
                    "shards": [
                        {"shardName": "a", "winningPlan": FETCH},
                        {"shardName": "b", "winningPlan": {"queryPlan": FETCH, "slotBasedPlan": {}}},
                    ],
                }
            },
            "executionStats": STATS,
        },
        Plan(("SHARD_MERGE_SORT", "FETCH", "IXSCAN"), ("_id_",), 7, 2),
    ),
    "an aggregation of two shards": (
        {
            "mergeType": "mongos",
            "splitPipeline": {"shardsPart": [], "mergerPart": []},
            "shards": {
                "a": {"queryPlanner": {"winningPlan": FETCH}, "executionStats": STATS},
                "b": {"stages": [{"$cursor": {"queryPlanner": {"winningPlan": FETCH}, "executionStats": STATS}}]},
            },
        },
        Plan(*FETCHED, 14, 4),
    ),
    "a union of two indexes": (
        {
            "queryPlanner": {
                "winningPlan": {"stage": "OR", "inputStages": [SCAN, SCAN | {"indexName": "run_1", "isPartial": True}]}
            }
        },
        Plan(("OR", "IXSCAN"), ("_id_", "run_1")),
    ),
    "a look-up by id before 8": ({"queryPlanner": {"winningPlan": {"stage": "IDHACK"}}}, Plan(("IDHACK",), ())),
    "a look-up by id in 8": (
        {"queryPlanner": {"winningPlan": {"isCached": False, "stage": "EXPRESS_IXSCAN", "indexName": "_id_"}}},
        Plan(("EXPRESS_IXSCAN",), ("_id_",)),
    ),
    "a collection that does not exist": ({"queryPlanner": {"winningPlan": {"stage": "EOF"}}}, Plan(("EOF",), ())),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_plan_is_read_from_the_answer_of(name: str) -> None:
    answer, plan = ANSWERS[name]
    assert read_plan(answer | {"ok": 1.0, "serverInfo": {"version": "8.0.0"}}) == plan


@pytest.mark.parametrize(
    "answer", [{}, {"ok": 1.0}, {"queryPlanner": {"winningPlan": [{"detail": "SCAN channels"}]}}, {"stages": []}]
)
def test_an_answer_of_another_shape_has_no_plan(answer: dict[str, Any]) -> None:
    assert read_plan(answer) is None


@pytest.mark.parametrize(
    ("stages", "indexes", "needed", "is_served"),
    [
        (("FETCH", "IXSCAN"), ("_id_",), ID_INDEX, True),
        (("IDHACK",), (), ID_INDEX, True),
        (("EXPRESS_CLUSTERED_IXSCAN",), (), ID_INDEX, True),
        (("EOF",), (), ID_INDEX, True),
        (("FETCH", "IXSCAN"), ("expires_1",), ID_INDEX, False),
        (("COLLSCAN",), (), ID_INDEX, False),
        (("FETCH", "IXSCAN"), ("run_1",), "run_1", True),
        (("IDHACK",), (), "run_1", False),
    ],
)
def test_a_plan_serves_a_query_if_it_uses_the_index(stages, indexes, needed: str, is_served: bool) -> None:
    assert Plan(stages, indexes).uses(needed) == is_served
