"""The process that scores shards for `scoring`: reads what it is to do line by line, answers each shard with a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from geofilter.bank.bank import Bank
from geofilter.errors import BankError, RunError
from geofilter.run.part import PartMaker
from geofilter.run.scoring import Answer, Job, Task
from geofilter.run.shard import Shard

_DONE: Answer = {"shard": "", "bank": "", "disk": ""}


def main() -> None:
    """Score what comes on standard input until it ends."""
    job: Job = json.loads(sys.stdin.buffer.readline())
    banks = [Bank.load(Path(of["folder"])).excluding(of["excluded"]) for of in job["banks"]]
    maker = PartMaker(banks, job["scorer"], job["paths"], job["stride"])
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(_scored(maker, json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


def _scored(maker: PartMaker, task: Task) -> Answer:
    path = Path(task["shard"])
    try:
        maker.of(Shard.load(path), task["before"]).save(Path(task["part"]), task["key"])
    except RunError as error:
        return {**_DONE, "shard": str(error).removeprefix(f"{path}: ").partition("; ")[0]}
    except BankError as error:
        return {**_DONE, "bank": str(error)}
    except OSError as error:
        return {**_DONE, "disk": error.strerror or str(error)}
    return _DONE


if __name__ == "__main__":
    main()
