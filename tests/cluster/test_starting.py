"""A cluster of a run's own starts, also on a machine that is busy."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from rlhf_flow.cluster.starting import start

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.mark.parametrize(("fails", "tries"), [([], 1), ([LATE], 2), ([LATE] * 3, 3), (["no memory"], 1)])
def test_a_node_that_starts_too_late_is_started_again(
    fails: list[str], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    asked: list[object] = []
    ahead = list(fails)

    def init(*arguments: object, **named: object) -> None:
        asked.append(named)
        if ahead:
            raise Exception(ahead.pop(0))

    monkeypatch.setattr(ray, "init", init)
    if tries > len(fails):
        start(object_store_mib=100)
    else:
        with pytest.raises(Exception, match=fails[-1][:20]):
            start(object_store_mib=100)
    assert len(asked) == tries
