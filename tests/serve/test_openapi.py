"""Whatever the OpenAPI allows is answered, and never with a fault of the server's."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from engine.serve.limits import Limits
from tests.kit.serving import serving

EXAMPLES = 3
"""Requests to each operation; `--hypothesis-seed` and more of them find more."""


@pytest.fixture(scope="module")
def small(pocket):
    """A server that takes little: what is made up is to be refused or quick."""
    limits = Limits(pixels=128 * 128, steps=2, n=1, queue=4)
    with serving(pocket, limits) as running:
        yield running


def test_no_request_of_the_schema_is_a_server_error(small):
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    found: list = list(schema.get_all_operations())
    operations = [each.ok() for each in found]
    assert len(operations) > 25
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case):
            answer = case.call(timeout=30)
            if answer.status_code not in {429, 503}:
                case.validate_response(answer, checks=[not_a_server_error])

        schema_test(operation, ask)
    assert small.client.get("/readyz").status_code == 200


def schema_test(operation, ask):
    """Run ``ask`` for cases of an operation."""
    from hypothesis import given

    given(case=operation.as_strategy())(ask)()


def test_every_operation_says_what_it_is_for(small):
    schema = small.client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            assert told.get("description"), (method, path)
    body = schema["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert "example" in body
    assert "feather" in body["schema"]["properties"]["settings"]["properties"]
