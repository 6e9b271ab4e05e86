"""Fetching a publisher's archive: resumable, checked against its checksum, unpacked without trusting it."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from filelock import FileLock

from rsssl.engine.files import lock_of
from rsssl.engine.progress import Progress
from rsssl.errors import UserError

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
MAX_BYTES = 200 << 30  # of one archive, unpacked
MAX_RATIO = 200  # unpacked to packed; imagery is far below
_METHODS = {8: "sha256", 32: "md5", 40: "sha1", 64: "sha256"}  # by digits; 8: the first ones of a SHA-256
OTHERWISE = "type dataset.root=FOLDER"
# What an interrupted or a confused connection raises: URLError, a reset, a timeout; half an answer, or no HTTP.
INTERRUPTED = (OSError, http.client.HTTPException)
# Errors of the system that a damaged archive causes, and not the folder that it is unpacked into.
OF_THE_ARCHIVE = (None, errno.EINVAL, errno.ENAMETOOLONG)


def fetch_and_extract(url: str, checksum: str, root: Path) -> None:
    """Fetch an archive and unpack it.

    Args:
        url: of the archive.
        checksum: its hexadecimal MD5, SHA-1 or SHA-256.
        root: the folder to unpack it into, which appears whole or not at all.

    Raises:
        UserError: as `fetch` and `extract`, and when the folder cannot be written.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_of(root)):
            if root.exists():
                return  # another process has just fetched it
            archive = root.parent / url.rsplit("/", 1)[-1]
            fetch(url, checksum, archive)
            part = root.parent / f".{root.name}.unpacking"
            shutil.rmtree(part, ignore_errors=True)
            extract(archive, part)
            part.rename(root)
            archive.unlink()
    except OSError as error:
        raise UserError(
            f"{url} cannot be fetched into {root.parent}: {error}. Check space and permissions, or type "
            "dataset.root=FOLDER"
        ) from error


def fetch(url: str, checksum: str, target: Path, otherwise: str = OTHERWISE) -> Path:
    """Download a file unless it is there; a `.part` file of an earlier attempt is continued.

    Args:
        url: of the file.
        checksum: hexadecimal MD5, SHA-1 or SHA-256, told apart by length; eight digits are a SHA-256's first ones.
        target: the file's name.
        otherwise: what to type where it cannot be had.

    Raises:
        UserError: when the server does not answer or the checksum differs (the file is then removed).
    """
    if len(checksum) not in _METHODS:
        raise UserError(f"the checksum {checksum} of {url} is neither MD5 nor SHA-1 nor SHA-256: {otherwise}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(lock_of(target)):
        if target.is_file() and digest(target, checksum) == checksum.lower():
            return target
        for attempt in range(3):
            try:
                _download(url, part)
                break
            except INTERRUPTED as error:
                if isinstance(error, OSError) and error.filename and not isinstance(error, urllib.error.URLError):
                    raise  # the part cannot be written
                reason = " ".join(str(error).split())
                if attempt == 2 or (isinstance(error, urllib.error.HTTPError) and error.code < 500):
                    raise UserError(
                        f"{url} cannot be fetched: {reason}. What has arrived is kept; run the same command "
                        f"again, or fetch it and save it as {target}, or {otherwise}"
                    ) from error
                log.warning("the download was interrupted (%s); it goes on", reason)
        received = digest(part, checksum)
        if received != checksum.lower():
            part.unlink()
            raise UserError(
                f"{url} is not the file it should be: its checksum is {received}, expected {checksum}. It "
                f"was removed; run the same command again, or {otherwise}"
            )
        os.replace(part, target)
    return target


def digest(path: Path, like: str) -> str:
    """The hexadecimal checksum of a file, by the method that gives checksums as long as `like`."""
    method = hashlib.new(_METHODS[len(like)], usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            method.update(block)
    return method.hexdigest()[: len(like)]


def _download(url: str, part: Path) -> None:
    """Fetch what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the checksum decides
            return
        raise
    except ValueError as error:
        raise UserError(f"{url} is no address ({error}): type one that begins with https://") from error
    with answer:
        if have and answer.status != 206:  # a server without ranges sends everything again
            have = 0
        length = answer.headers.get("Content-Length", "")
        left = int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else 0  # else it is not known
        total = have + left if left else None
        with (
            Progress(f"fetching {part.stem}", total, "bytes", have) as progress,
            open(part, "ab" if have else "wb") as file,
        ):
            got = 0
            while block := answer.read(BLOCK):
                file.write(block)
                progress.update(len(block))
                got += len(block)
        if got < left:
            raise ConnectionError(f"{got} of {left} bytes came")


class _Member(NamedTuple):
    """One entry of an archive."""

    name: str
    size: int
    kind: str  # "file", "folder" or "link", which stands for all else
    open: Callable[[], IO[bytes]]

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name.replace("\\", "/"))


def extract(archive: Path, into: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a zip or tar file. Nothing is written before every name and size has been looked at.

    Args:
        archive: the file.
        into: the folder.
        max_bytes: that the files may have together.

    Raises:
        UserError: for absolute names, `..`, links, devices, two files of one name, more than `max_bytes` or `MAX_RATIO`
            times the archive's size; for damaged and encrypted archives, and RAR files, which need another program.
        OSError: when the folder cannot be written.
    """
    with open(archive, "rb") as file:
        start = file.read(8)
    if start.startswith(b"Rar!"):
        raise UserError(
            f"{archive} is a RAR archive, which cannot be unpacked here. Unpack it yourself, e.g. with "
            f"`unar '{archive}'`, and type dataset.root=FOLDER"
        )
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                members = [_zip_member(packed, info) for info in packed.infolist()]
                _unpack(archive, members, into, max_bytes)
        else:
            with tarfile.open(archive) as tar:
                _unpack(archive, [_tar_member(tar, info) for info in tar], into, max_bytes)
    except UserError:
        raise
    except Exception as error:  # a damaged archive makes the decoders raise anything: zlib.error, NotImplementedError
        if isinstance(error, OSError) and error.errno not in OF_THE_ARCHIVE:
            raise
        raise UserError(
            f"{archive} cannot be unpacked: {error}. Remove it and run the same command again: rm '{archive}', or "
            "unpack it yourself and type dataset.root=FOLDER"
        ) from error


def _zip_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
    kind = "folder" if info.is_dir() else "file" if regular else "link"
    return _Member(info.filename, info.file_size, kind, partial(packed.open, info))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    kind = "folder" if info.isdir() else "file" if info.isreg() else "link"
    return _Member(info.name, info.size, kind, partial(tar.extractfile, info))  # type: ignore[arg-type]


def _unpack(archive: Path, members: list[_Member], into: Path, max_bytes: int) -> None:
    _refuse_names(archive, members)
    total = sum(member.size for member in members)
    if total > min(max_bytes, max(MAX_RATIO * archive.stat().st_size, 64 << 20)):
        raise UserError(
            f"{archive} claims to unpack to {total / 1e9:,.1f} GB, more than is believable. Unpack it "
            "yourself and type dataset.root=FOLDER"
        )
    with Progress(f"unpacking {archive.name}", total, "bytes") as progress:
        for member in members:
            _unpack_one(archive, member, into)
            progress.update(member.size)


def _unpack_one(archive: Path, member: _Member, into: Path) -> None:
    target = into / member.path
    if member.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, open(target, "wb") as file:
        _copy(source, file, member.size, archive)


def _refuse_names(archive: Path, members: list[_Member]) -> None:
    """Raises UserError for members that would lie outside of the folder, or in each other's place."""
    files = Counter(member.path for member in members if member.kind != "folder")
    folders = {parent for member in members for parent in member.path.parents} | {PurePosixPath(".")}
    folders |= {member.path for member in members if member.kind == "folder"}
    for member in members:
        path = member.path
        if path.is_absolute() or ".." in path.parts or member.kind == "link" or member.size < 0:
            why = f"({member.kind}), which would write outside the folder"
        elif member.kind != "folder" and (files[path] > 1 or path in folders):
            why = "twice, or as a file and as a folder"
        else:
            continue
        raise UserError(
            f"{archive} is not safe to unpack: it holds {member.name!r} {why}. Unpack it yourself and type "
            "dataset.root=FOLDER"
        )


def _copy(source: IO[bytes], target: IO[bytes], size: int, archive: Path) -> None:
    """Copy what the directory promised and not a byte more: headers can lie."""
    while block := source.read(BLOCK):
        size -= len(block)
        if size < 0:
            raise UserError(
                f"{archive} holds more than its directory says. Unpack it yourself and type dataset.root=FOLDER"
            )
        target.write(block)
