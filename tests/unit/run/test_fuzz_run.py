"""Any bytes in a run's files: reading ends with what was stored or with one of our errors, soon, in little memory."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.errors import ClipauditError
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.run.upkeep import gc, status
from tests.fuzz import bounded, damaged, damages, folder_in_memory, json_values, no_hang, places, replaced, small
from tests.make_runs import SPEC, make_run

FEW, MANY = 60, 8_000
QUICK = settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=MANY)


class Target:
    """A small run, whose files are damaged one at a time and put back."""

    def __init__(self, path):
        self.path = path
        self.directory = make_run(str(path), SPEC, shards=2, rows=9, failures=(3,))
        record = self.directory.committed()[0]
        self.files = {
            "manifest": path / "run.json",
            "commit": path / "_committed" / "000000.json",
            "rows": path / record.projections,
            "moments": path / record.moments,
            "basis": path / "basis.safetensors",
        }
        self.good = {name: file.read_bytes() for name, file in self.files.items()}
        self.before = set(path.rglob("*"))

    def read_with(self, name, data, readers):
        """Read with one file damaged."""
        self.files[name].write_bytes(data)
        try:
            with no_hang(), np.errstate(all="ignore"):
                for read in readers:
                    with contextlib.suppress(ClipauditError):
                        read(str(self.path))
        finally:
            self.files[name].write_bytes(self.good[name])


READERS = (
    lambda url: Run(url).table(),
    lambda url: Run(url).heads("L00H01", ["key", "attributes.place"]),
    lambda url: Run(url).moments(label=1),
    lambda url: Run(url).label_counts(),
    lambda url: Run(url).basis(),
    status,
    check,
    lambda url: gc(url, dry_run=True),
)
NEAREST = {
    "manifest": (lambda url: Run(url).moments(["L00H01"]),),
    "commit": (lambda url: Run(url).coverage(), lambda url: Run(url).table(["key"])),
    "rows": (lambda url: Run(url).heads("L00H01", ["key", "attributes.place"]),),
    "moments": (lambda url: Run(url).moments(label=1),),
    "basis": (lambda url: Run(url).basis(),),
}
"""The readers that take a file apart, for many cases in little time."""


@pytest.fixture(scope="module")
def target():
    with folder_in_memory() as folder:
        yield Target(folder / "run")


def documents(good):
    """A JSON document with other values in one or two places."""
    value = json.loads(good)
    anywhere = st.sampled_from(list(places(value)))

    def edited(edits):
        found = value
        for place, new in edits:
            with contextlib.suppress(LookupError, TypeError):  # the first edit may have removed the second one's place
                found = replaced(found, place, new)
        return json.dumps(found).encode("utf-8", "surrogatepass")

    return st.lists(st.tuples(anywhere, json_values), min_size=1, max_size=2).map(edited)


def safetensors_of(good):
    """A safetensors file with another header: its length, JSON and what it says of places."""
    length = int.from_bytes(good[:8], "little")
    header, body = good[8 : 8 + length], good[8 + length :]
    return documents(header).map(lambda new: len(new).to_bytes(8, "little") + new + body)


def damages_of(target, name):
    good = target.good[name]
    edited = damages.map(lambda edits: damaged(good, edits))
    match name:
        case "manifest" | "commit":
            return edited | documents(good)
        case "moments" | "basis":
            return edited | safetensors_of(good)
        case _:
            return edited


NAMES = ("manifest", "commit", "rows", "moments", "basis")


@pytest.mark.parametrize("name", [*NAMES[:3], *(pytest.param(name, marks=pytest.mark.full) for name in NAMES[3:])])
def test_a_damaged_run_is_read_or_refused(target, name):
    @given(data=damages_of(target, name))
    @QUICK
    def any_damage(data):
        with small():
            target.read_with(name, data, READERS)

    any_damage()
    assert set(target.path.rglob("*")) == target.before, "reading a damaged run made or removed files"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_run_is_read_or_refused_in_many_cases(target, name):
    @given(data=damages_of(target, name))
    @SLOW
    def any_damage(data):
        with bounded():
            target.read_with(name, data, NEAREST[name])

    any_damage()
