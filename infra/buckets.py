"""Make the buckets named on the command line where they are missing; the store is where AWS_ENDPOINT_URL says."""

import sys

import boto3


def make_buckets(names: list[str]) -> list[str]:
    """Make the buckets that are missing; returns their names."""
    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    missing = [name for name in names if name not in there]
    for name in missing:
        store.create_bucket(Bucket=name)
    return missing


if __name__ == "__main__":
    make_buckets(sys.argv[1:])
