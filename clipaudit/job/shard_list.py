"""Which shards a command works on: those it names, matched with the run's by URL, and by content where times differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from clipaudit.errors import RunMismatch, RunNotFound, ShardError, UsageError
from clipaudit.redact import public_url
from clipaudit.run.directory import RunDirectory
from clipaudit.run.growth import History, Move, lies_below
from clipaudit.schema import Shard
from clipaudit.shards.content import shard_sha256
from clipaudit.shards.listing import is_local, local_path, stat_all
from clipaudit.shards.stored import read_piece

_HASH_THREADS: Final = 4
_READ_THREADS: Final = 16
_BEGINNING_BYTES: Final = 4096
"""Of a shard: several names, sizes and times of its first files."""

Comparing = Callable[[int, int], None]
"""Called with the number of shards, and their bytes, whose contents are about to be read and compared."""


@dataclass(frozen=True, kw_only=True)
class ShardList:
    """The shards of one command."""

    history: History | None
    """The run's, with the moves of this command; None when it begins the run."""
    shards: tuple[Shard, ...]
    """All that the command accounts for, as they are now: those it names, or with `append` those of the whole run."""
    new: tuple[Shard, ...]
    """Those among them that the run does not have yet; their ids go on behind the run's."""
    known: int
    """Named shards that the run has."""
    pending: tuple[Shard, ...]
    """Those among `shards` that are not committed."""

    @property
    def committed(self) -> int:
        """How many of `shards` are committed."""
        return len(self.shards) - len(self.pending)

    def generation_of(self, shard_id: int) -> int:
        """The generation of a shard; `new` ones make the next."""
        if self.history is None:
            return 0
        return self.history.generation_of(shard_id)


def list_shards(
    run_dir: RunDirectory,
    asked: Sequence[Shard],
    *,
    append: bool = False,
    moved: Sequence[str] = (),
    comparing: Comparing = lambda shards, nbytes: None,
) -> ShardList:
    """Match the shards that a command names with those of the run, if there is one.

    asked: as `listing.expand` gives them. moved: `FROM=TO` texts; new ones are recorded in the run, and so are the
    etags of shards that have the recorded content and another time.

    Raises RunMismatch when the named shards are not those of the run (without `append`) or one of them was edited, and
    UsageError for `append` or `moved` without a run, and for a FROM that no shard of the run lies below.
    """
    while True:
        try:
            history = run_dir.history()
        except RunNotFound:
            if append or moved:
                option = "--append" if append else "--moved"
                raise UsageError(f"there is no run at {run_dir.url} yet: leave out {option} to begin it") from None
            return ShardList(history=None, shards=tuple(asked), new=tuple(asked), known=0, pending=tuple(asked))
        prefixes = tuple(prefix for text in moved if (prefix := _prefix(text, history, run_dir.url)) is not None)
        move = Move(number=len(history.moves) + 1, prefixes=prefixes)
        history = replace(history, moves=(*history.moves, move)) if prefixes else history
        listed, etags = _matched(run_dir, history, asked, append, comparing)
        move = replace(move, etags=etags)
        if not (prefixes or etags) or run_dir.move(move):
            return listed
        # another driver recorded a move meanwhile: look again


def _matched(
    run_dir: RunDirectory, history: History, asked: Sequence[Shard], append: bool, comparing: Comparing
) -> tuple[ShardList, dict[str, str]]:
    """The shards of a command on an existing run, and by id the etags of those that have another one by now."""
    by_url = {shard.url: shard for shard in history.shards}
    committed = run_dir.committed_ids()
    present = {by_url[shard.url].id: shard for shard in asked if shard.url in by_url}
    others = [shard for shard in asked if shard.url not in by_url]
    if append:
        copies = _copies(run_dir, history, others, committed, comparing)
        others = [shard for shard in others if shard.url not in copies]
        known = len(present) + len(copies)
        waiting = [shard for shard in history.shards if shard.id not in committed and shard.id not in present]
        present |= _as_now(waiting)
    else:
        known = len(present)
        if others or not history.generations_with_all(present):
            _refuse_other_shards(run_dir.url, history, [shard.url for shard in others], present)
    etags = _compare(run_dir, history, present, committed, comparing)
    whole = history.shards if append else tuple(history.shards[shard] for shard in sorted(present))
    shards = [replace(shard, etag=etags.get(str(shard.id), shard.etag)) for shard in whole]
    new = tuple(replace(shard, id=number) for number, shard in enumerate(others, len(history.shards)))
    shards += new
    listed = ShardList(
        history=history,
        shards=tuple(shards),
        new=new,
        known=known,
        pending=tuple(shard for shard in shards if shard.id not in committed),
    )
    return listed, etags


# -- identity ----------------------------------------------------------------------------------------------------------


def _compare(
    run_dir: RunDirectory,
    history: History,
    present: Mapping[int, Shard],
    committed: Iterable[int],
    comparing: Comparing,
) -> dict[str, str]:
    """By id the new etags of shards that are the recorded ones; RunMismatch names one that is not.

    A shard that is not committed has been read by nobody: another time alone changes nothing of the run.
    """
    shards, done = history.shards, set(committed)
    etags: dict[str, str] = {}
    touched = []
    for number, now in sorted(present.items()):
        if now.size != shards[number].size:
            raise _changed(run_dir.url, shards[number], "size", shards[number].size, now.size)
        if now.etag != shards[number].etag:
            etags[str(number)] = now.etag
            touched += [number] * (number in done)
    if not touched:
        return etags
    records = run_dir.committed(touched)
    comparing(len(touched), sum(present[number].size for number in touched))
    for number, sha256 in _hashes([(number, present[number]) for number in touched]):
        if not records[number].input_sha256 or sha256 != records[number].input_sha256:
            raise _changed(run_dir.url, shards[number], "etag", shards[number].etag, present[number].etag)
    return etags


def _hashes(shards: Sequence[tuple[int, Shard]]) -> Iterable[tuple[int, str]]:
    """(number, hex sha256) of shards as they are now; RunMismatch for one that cannot be read."""
    with ThreadPoolExecutor(_HASH_THREADS) as threads:
        try:
            yield from zip(
                [number for number, _ in shards], threads.map(shard_sha256, [shard for _, shard in shards]), strict=True
            )
        except ShardError as error:
            raise RunMismatch(f"{error}: restore it, or give another --out") from error


def _copies(
    run_dir: RunDirectory, history: History, shards: Sequence[Shard], committed: set[int], comparing: Comparing
) -> set[str]:
    """URLs among `shards` of files that have the content of a committed shard at another place, whatever their names.

    Read whole are those that have size and beginning of one.
    """
    by_size: dict[int, list[Shard]] = {}
    for shard in history.shards:
        if shard.id in committed:
            by_size.setdefault(shard.size, []).append(shard)
    sized = [shard for shard in shards if shard.size in by_size]
    recorded = [shard for size in {shard.size for shard in sized} for shard in by_size[size]]
    begins = _beginnings([*sized, *recorded])
    alike = [shard for shard in sized if _may_be_one(begins, shard, by_size[shard.size])]
    if not alike:
        return set()
    candidates = {other.id for shard in alike for other in by_size[shard.size]}
    contents = {record.input_sha256 for record in run_dir.committed(candidates).values()} - {""}
    comparing(len(alike), sum(shard.size for shard in alike))
    return {alike[number].url for number, sha256 in _hashes(list(enumerate(alike))) if sha256 in contents}


def _beginnings(shards: Sequence[Shard]) -> dict[str, bytes | None]:
    """By URL the first bytes of shards; None for one that cannot be read."""

    def beginning(shard: Shard) -> bytes | None:
        try:
            return read_piece(shard.url, 0, _BEGINNING_BYTES)
        except ShardError:
            return None

    with ThreadPoolExecutor(_READ_THREADS) as threads:
        return dict(zip([shard.url for shard in shards], threads.map(beginning, shards), strict=True))


def _may_be_one(begins: Mapping[str, bytes | None], shard: Shard, others: Sequence[Shard]) -> bool:
    """Whether a shard begins as one of others does; true where that is not known."""
    known = {begins[other.url] for other in others}
    return begins[shard.url] is None or None in known or begins[shard.url] in known


def _as_now(shards: Sequence[Shard]) -> dict[int, Shard]:
    """Shards by id with their present sizes and etags; one that is not there stays as it was recorded."""
    stats = stat_all([shard.url for shard in shards])
    return {
        shard.id: shard if now is None else replace(shard, size=now.size, etag=now.etag)
        for shard, now in zip(shards, stats, strict=True)
    }


def _changed(url: str, shard: Shard, what: str, old: object, new: object) -> RunMismatch:
    return RunMismatch(
        f"shard {shard.url} has changed since the run at {url} began ({what} was {old}, now {new}):"
        " restore it, or give another --out"
    )


def _refuse_other_shards(url: str, history: History, added: Sequence[str], present: Iterable[int]) -> None:
    """Raise RunMismatch: the command names other shards than the run's."""
    chosen = set(present)
    removed = [shard.url for shard in history.shards if shard.id not in chosen]
    changes = (("added", added), ("removed", removed))
    listed = " and ".join(f"{len(names)} {word} (first: {names[0]})" for word, names in changes if names)
    mended = "give the same shards, or another --out"
    if added and not removed:
        mended = "give --append to add them, the same shards, or another --out"
    elif added and (pair := _pair_of_folders(removed, added)):
        mended = f"give the same shards, another --out, or, where they were moved, --moved {pair}"
    raise RunMismatch(f"{url} holds a run over other shards, {listed}: {mended}")


# -- moves -------------------------------------------------------------------------------------------------------------


def _prefix(text: str, history: History, url: str) -> tuple[str, str] | None:
    """(FROM, TO) of a `--moved` text; None for a move that the run has recorded already."""
    homes = [history.homes(shard.url) for shard in history.recorded]
    cuts = [place for place, character in enumerate(text) if character == "="]
    if not cuts:
        raise UsageError(f"--moved must be FROM=TO, such as /old/data=/new/data, not {text!r}")
    moves: dict[str, str] = {}
    recorded = False
    for cut in cuts:  # a path may hold = itself
        target = _place(text[cut + 1 :], resolved=True)
        for source in dict.fromkeys(_place(text[:cut], resolved=resolved) for resolved in (False, True)):
            move = Move(number=1, prefixes=((source, target),))
            if any(move.apply(urls[-1]) != urls[-1] for urls in homes):
                moves[source] = target
                break
            recorded |= any(lies_below(url, source) for urls in homes for url in urls)
    if len(moves) > 1:
        places = " and below ".join(moves)
        raise UsageError(f"--moved {text}: shards of the run at {url} lie below {places}: rename one of these folders")
    if moves:
        return next(iter(moves.items()))
    if recorded:
        return None
    raise UsageError(
        f"--moved {text}: no shard of the run at {url} lies below {text[: cuts[0]]}; the first is {homes[0][-1]}"
    )


def _place(text: str, *, resolved: bool) -> str:
    """A folder or URL as shards' URLs begin with it."""
    if not is_local(text):
        return public_url(text).rstrip("/")
    path = local_path(text)
    return os.path.realpath(path) if resolved else path


def _pair_of_folders(removed: Sequence[str], added: Sequence[str]) -> str:
    """`OLD=NEW` of the folders of two shards that have one name, or nothing."""
    folders = {_name(url): url.rpartition("/")[0] for url in added}
    pairs = (f"{url.rpartition('/')[0]}={folders[_name(url)]}" for url in removed if _name(url) in folders)
    return next(pairs, "")


def _name(url: str) -> str:
    return url.rpartition("/")[2]
