"""What a compressed file can hold at most."""

from __future__ import annotations

import zipfile

DEFLATE_LIMIT = 1032
"""Deflate never expands a byte into more than this many: a match has 258 bytes at most and takes two bits at least."""


def check_member(member: zipfile.ZipInfo, archive_size: int) -> None:
    """Refuse a member of a zip archive that claims sizes which are not possible, before anything makes room for it.

    Args:
        member: as the archive's directory has it.
        archive_size: bytes of the whole archive.

    Raises:
        ValueError: it claims to be larger than the archive, or than what its bytes expand to.
    """
    if member.compress_size > archive_size:
        raise ValueError(f"{member.filename} claims {member.compress_size} bytes of an archive of {archive_size}")
    if member.file_size > DEFLATE_LIMIT * (member.compress_size + 1):
        raise ValueError(f"{member.filename} claims to expand {member.compress_size} bytes to {member.file_size}")
