"""What an upload sends and how each refusal of the Hub is said, without a server."""

from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from colport.hub import upload


def refusal(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"{status} for https://host/x?signature=abc", response=response)


def said(error):
    return f"me/it: {upload._reason(error)}."


@pytest.mark.parametrize("status", upload._REASONS)
def test_a_known_status_has_its_reason(status):
    assert said(refusal(status)) == f"me/it: {upload._REASONS[status]}."


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "the Hub failed with status 500; push again later"),
        (503, "the Hub failed with status 503; push again later"),
        (499, "the upload failed (499 for …)"),
    ],
)
def test_other_statuses(status, reason):
    assert said(refusal(status)) == f"me/it: {reason}."


@pytest.mark.parametrize("status", [403, 500])
def test_the_store_of_large_files_answers_for_itself(status):
    error = RuntimeError("an error while uploading")
    error.__cause__ = refusal(status)
    assert said(error) == f"me/it: sending a file failed with status {status}; push again."


def test_what_is_no_answer_of_the_hub():
    assert said(ConnectionError("no route to https://host")) == (
        "me/it: the upload failed (no route to …)."
    )
