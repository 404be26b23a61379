"""The exceptions of clipaudit, each with the exit code that it ends a command with.

    ClipauditError (5)
    +-- UsageError (2)               an option, a path or a configuration is wrong: one sentence names it
    |   +-- UnknownModel             no such open_clip name, weight tag or directory
    |   +-- UnsupportedTower         the image encoder cannot be decomposed; carries the reason
    |   +-- ShardNotFound            a shard pattern matched nothing, or a named shard does not exist
    |   +-- RunMismatch              the run directory belongs to another configuration or other shards
    |   +-- RunNotFound              there is no run at this path
    +-- RunInvalid (4)               work was lost: too many samples or shards, a full disk, an interruption
    |   +-- StorageFull              the run's file system has no space left
    |   +-- WorkersUnavailable       no worker could be started
    |   +-- Interrupted              stopped by a signal; what is committed stays
    +-- ShardError (4)               one shard cannot be processed; recorded under _failed/
    |   +-- ShardUnreadable          the shard cannot be opened or read
    |   +-- ShardChanged             the shard's size or etag is no longer the one that the run recorded
    |   +-- ShardTooSlow             an attempt at the shard made no progress for `--max-shard-seconds`
    |   +-- StoreUnavailable         the object store of shards or of the run failed at every retry
    +-- IntegrityError (4)           stored files disagree with their commit record

A ClipauditError ends as its one sentence on stderr; any other exception is a bug and keeps its traceback. Messages hold
no credentials: they quote the errors of libraries, and the constructor redacts them.
"""

from clipaudit.redact import redact


class ClipauditError(Exception):
    """Root of all clipaudit errors.

    >>> try:
    ...     Run("demo-out")
    ... except ClipauditError as error:
    ...     print(error.exit_code)
    2
    """

    exit_code = 5
    """Of the command line; subclasses have their own."""

    def __init__(self, message: str = "") -> None:
        """Keep `message` with the credentials in it replaced by `[hidden]`."""
        super().__init__(redact(message))


class Note(UserWarning):
    """What a user should know and what is no error, such as two classes of one name; commands print it on stderr."""


class UsageError(ClipauditError):
    """An option, a path or a configuration is wrong.

    >>> try:
    ...     Run("demo-out/birds-run").heads("L99H00")
    ... except UsageError as error:
    ...     print(str(error).partition(" stores ")[2])
    no head 'L99H00': it stores L...
    """

    exit_code = 2


class UnknownModel(UsageError):
    """No such open_clip model name, weight tag or model directory."""


class UnsupportedTower(UsageError):
    """The image encoder is not one that clipaudit can decompose exactly; the message gives the reason."""


class ShardNotFound(UsageError):
    """A shard pattern matched nothing, or a named shard does not exist."""


class RunMismatch(UsageError):
    """The run directory was made with another configuration or from other shards."""


class RunNotFound(UsageError):
    """There is no run at the given path.

    >>> try:
    ...     Run("nowhere")
    ... except RunNotFound as error:
    ...     print("run.json is not there" in str(error))
    True
    """


class RunInvalid(ClipauditError):
    """The run cannot be trusted or finished: too many samples or shards were lost."""

    exit_code = 4


class StorageFull(RunInvalid):
    """The file system that holds the run has no space left."""


class WorkersUnavailable(RunInvalid):
    """No worker could be started."""


class Interrupted(RunInvalid):
    """The job was stopped by a signal; committed shards stay, and the same command resumes the run."""


class ShardError(ClipauditError):
    """One shard cannot be processed."""

    exit_code = 4


class ShardUnreadable(ShardError):
    """The shard cannot be opened or read."""


class ShardChanged(ShardError):
    """The shard is no longer the file that the run recorded."""


class ShardTooSlow(ShardError):
    """An attempt at the shard was given up after `--max-shard-seconds` without progress."""


class StoreUnavailable(ShardError):
    """An object store failed at every retry. A shard's attempt is repeated; anything else ends, to be resumed later."""


class IntegrityError(ClipauditError):
    """Stored files disagree with their commit record.

    >>> try:
    ...     moments = Run("demo-out/birds-run").moments()
    ... except IntegrityError as error:
    ...     print(error)
    ... else:
    ...     print("no file is missing or damaged")
    no file is missing or damaged
    """

    exit_code = 4
