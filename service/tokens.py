"""The bearer tokens that a service accepts: several, so that one can be changed while the other is in use."""

import hashlib
import hmac
import logging

from service.settings import ServiceSettings

LOG = logging.getLogger("service.tokens")


class Tokens:
    """The tokens of the settings and of the token file, which is read again when it changes.

    A file that cannot be read, or holds no token any more, changes nothing: the tokens that were read last stay.

    Raises:
        ValueError: the token file cannot be read, or has no token.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._digests: list[bytes] = []
        self._seen = self._state()
        self._read()

    @property
    def are_wanted(self) -> bool:
        """Whether a request has to bring one."""
        return bool(self._digests)

    def accept(self, candidate: bytes) -> bool:
        """Return whether this is one of them, in a time that tells neither which nor how much of it is right."""
        self._refresh()
        digest = hashlib.sha256(candidate).digest()
        # No early exit, and equal lengths.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._read()
        except ValueError as error:
            LOG.error("%s; the tokens stay as they were", error)
        else:
            LOG.info("the token file was read again; tokens that are accepted now: %d", len(self._digests))

    def _read(self) -> None:
        self._digests = [hashlib.sha256(token).digest() for token in self._settings.accepted_tokens()]

    def _state(self) -> tuple[int, int, int] | None:
        """Return what changes when the file does, also where it is a link that is turned to another file."""
        if self._settings.token_file is None:
            return None
        try:
            found = self._settings.token_file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
