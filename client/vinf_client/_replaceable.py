"""What a finished file may take the place of."""

from pathlib import Path

from vinf_client._errors import OutputError


def check_replaceable(path: Path) -> None:
    """See that there is nothing at a path, or a file.

    Raises:
        OutputError: a folder, or a device or a pipe: who moves a file there removes it, which root may do even to
            /dev/null.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; choose another name")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is a device or a pipe, and would be replaced by a file; choose another name")
