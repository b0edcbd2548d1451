"""The errors that a user can cause or cure. Each says what was wrong and what to do, on one line."""


class CrawlmillError(Exception):
    """Base of every error meant for a user's eyes. `exit_code` is what the command line ends with."""

    exit_code = 1


class RecipeError(CrawlmillError):
    """The recipe cannot be used: an unknown key, an impossible bound, an unknown signal. Nothing was started."""

    exit_code = 2


class UsageError(CrawlmillError):
    """The request cannot be carried out as asked, for example because the output folder holds another run."""

    exit_code = 2


class InputError(CrawlmillError):
    """Inputs are missing, unreadable or damaged beyond the tolerated share."""

    exit_code = 3


class StorageError(CrawlmillError):
    """The output cannot be written: a full disk, a missing permission, a lost object store."""

    exit_code = 1
