"""A run of version 0.1, whose labels go to a copy of their own."""

from __future__ import annotations

from tests.export.conftest import old_run as old_run
