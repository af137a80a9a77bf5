"""What the batch's tests share."""

from __future__ import annotations

import secrets

import pytest

from engine.batch.drive import drive_at


@pytest.fixture
def memory():
    """A folder of fsspec's memory file system, which stands for any bucket."""
    drive = drive_at(f"memory://{secrets.token_hex(8)}")
    yield drive
    for folder, names in list(drive.walk()):
        drive.remove(f"{folder}/{name}" if folder else name for name in names)
