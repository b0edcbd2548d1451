"""A bucket of an S3 store: `store.py put FOLDER s3://BUCKET/PREFIX` and `store.py list s3://BUCKET/PREFIX`.

The store and the keys come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as they do for jobs. `put`
waits up to two minutes for a store that is starting and makes the bucket if it is not there.
"""

import sys
import time
from pathlib import Path

import s3fs

PATIENCE = 120


def bucket(store: s3fs.S3FileSystem, name: str) -> None:
    """Makes a bucket. Raises SystemExit when the store does not answer in time."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            if not store.exists(name):
                store.mkdir(name)
            return
        except Exception as error:  # not up yet: botocore, aiohttp and socket errors alike
            if time.monotonic() > until:
                raise SystemExit(f"the store does not answer: {error}") from error
            time.sleep(1)
            store.invalidate_cache()


def put(store: s3fs.S3FileSystem, folder: Path, address: str) -> None:
    """Uploads every file of a folder."""
    bucket(store, address.split("/")[0])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.put_file(str(path), f"{address}/{path.relative_to(folder).as_posix()}")
        print(f"s3://{address}/{path.relative_to(folder).as_posix()}  {path.stat().st_size:,} bytes")


def show(store: s3fs.S3FileSystem, address: str) -> None:
    """Prints what lies under an address: objects and bytes of each folder in it."""
    folders: dict[str, list[int]] = {}
    for name, facts in store.find(address, detail=True).items():
        folders.setdefault(name.removeprefix(address).strip("/").split("/")[0], []).append(facts["size"])
    for name, sizes in sorted(folders.items()):
        print(f"s3://{address}/{name}  {len(sizes)} objects, {sum(sizes):,} bytes")


def main(arguments: list[str]) -> None:
    """Does what the command line says."""
    store = s3fs.S3FileSystem(config_kwargs={"retries": {"max_attempts": 10}})
    match arguments:
        case ["put", folder, address]:
            put(store, Path(folder), address.removeprefix("s3://").rstrip("/"))
        case ["list", address]:
            show(store, address.removeprefix("s3://").rstrip("/"))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
