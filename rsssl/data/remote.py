"""Files read over a network: s3://, https:// and every other name that fsspec opens. What fails is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsssl.errors import UserError

log = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each new attempt
TIMEOUT = 60.0  # seconds that one request over HTTP may take
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UserError)


class Truncated(OSError):
    """Fewer or more bytes came than were asked for."""


def is_remote(root: str | None) -> bool:
    """Whether a root is read through fsspec: it has a protocol, s3://bucket/folder."""
    return root is not None and "://" in root


@dataclass(frozen=True)
class Remote:
    """A folder of files by its address.

    Args:
        url: s3://bucket/folder, https://host/folder, memory://folder, ...
    """

    url: str

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            UserError: as `read` does.
        """

        def ask(files: Any, path: str) -> int:
            info = files.info(path)
            if info.get("size") is None or info.get("partial") is False:
                raise UserError(
                    f"{self.url}/{name}: this server does not give parts of files (ranges of bytes): copy the pack to "
                    "a folder and type dataset.root=FOLDER"
                )
            return int(info["size"])

        return self._asked(name, ask)

    def read(
        self,
        name: str,
        start: int | None = None,
        stop: int | None = None,
        check: Callable[[bytes], object] | None = None,
        patient: bool = True,
    ) -> bytes:
        """A file, or its bytes start..stop.

        Args:
            name: of the file in the folder.
            start: the first byte; None for the whole file.
            stop: the byte after the last one.
            check: raises OSError for content that is not what it should be; it is then fetched again.
            patient: try again what fails, for a minute.

        Raises:
            UserError: when it does not come whole after all attempts, is not there, or must not be read.
        """

        def get(files: Any, path: str) -> bytes:
            data: bytes = files.cat_file(path, start=start, end=stop)
            if start is not None and stop is not None and len(data) != stop - start:
                raise Truncated(f"{len(data)} of {stop - start} bytes came")
            if check is not None:
                check(data)
            return data

        return self._asked(name, get, patient)

    def exists(self, name: str) -> bool:
        """Whether the folder has a file of that name."""

        def ask(files: Any, path: str) -> bool:
            return bool(files.exists(path))

        return self._asked(name, ask)

    def _asked(self, name: str, ask: Callable[[Any, str], Any], patient: bool = True) -> Any:
        address = f"{self.url}/{name}"
        files, path = opened(address)
        pack = "the address of a finished pack, dataset.root=s3://bucket/pack"
        return patiently(lambda: ask(files, path), lambda: address, pack, patient)


def patiently(attempt: Callable[[], Any], address: Callable[[], str], meant: str, patient: bool = True) -> Any:
    """What an attempt gives; one that fails is made again after each of WAITS.

    Args:
        attempt: raises what it likes, and UserError for what no other attempt would change.
        address: of the file at which the last attempt failed.
        meant: what to type in its place, where there is no such file.
        patient: False: there is one attempt.

    Raises:
        UserError: when all attempts fail, or one for good.
    """
    for wait in (*(WAITS if patient else ()), None):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:  # each kind of storage has errors of its own
            if wait is None or final(error):
                raise unreadable(address(), error, meant) from error
            log.warning("%s cannot be read (%s); once more in %g s", address(), said(error), wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def opened(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        UserError: when there is no such protocol, or a package for it is missing.
    """
    try:
        import fsspec

        options: dict[str, Any] = {}
        if address.startswith(("http://", "https://")):
            import aiohttp

            options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=TIMEOUT)}}
        files, path = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        raise UserError(f"{address} needs packages that are not installed ({error}): pip install 'rsssl[cloud]'") from (
            error
        )
    except ValueError as error:
        raise UserError(f"{address} cannot be read ({error}): type an address such as s3://bucket/folder") from error
    return files, path


def final(error: BaseException) -> bool:
    """Whether another attempt would fail in the same way: nothing there, not allowed, no credentials."""
    status = getattr(error, "status", None)  # of aiohttp
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, FINAL) or refused or "Credentials" in type(error).__name__


def said(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def unreadable(address: str, error: BaseException, meant: str) -> UserError:
    """What is said of an address that cannot be read.

    Args:
        address: of a file.
        error: of the attempt.
        meant: what to type in its place, where there is no such file.
    """
    if isinstance(error, FileNotFoundError):
        return UserError(f"{address} is not there: type {meant}")
    if final(error):
        return UserError(
            f"{address} must not be read ({said(error)}): give the access that its owner gave you, for s3:// as "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL in the environment"
        )
    return UserError(
        f"{address} cannot be read ({said(error)}): look at the network and the address, then type the same command "
        "again; it goes on where it was"
    )
