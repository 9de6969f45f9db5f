"""How much a script may use: defaults, and the ceilings that no project can pass."""

from typing import Annotated

import msgspec
from msgspec import Meta


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One project's limits. Time spent waiting for a language model does not count as wall time.

    ``memory_mb`` is what all processes of a script have together, beyond what its interpreter
    had when it was ready. ``stdout_kb`` and ``stderr_kb`` are kept, head and tail; a script that
    prints more than ``output_mb`` is stopped. ``paused`` is how many scripts of the project may
    wait for a model at once, ``queue`` how many executions may wait for a worker.
    """

    wall_s: Annotated[int, Meta(ge=1, le=600)] = 60
    cpu_s: Annotated[int, Meta(ge=1, le=600)] = 60
    memory_mb: Annotated[int, Meta(ge=64, le=4096)] = 512
    processes: Annotated[int, Meta(ge=1, le=256)] = 32
    files: Annotated[int, Meta(ge=16, le=1024)] = 128
    file_mb: Annotated[int, Meta(ge=1, le=1024)] = 32
    disk_mb: Annotated[int, Meta(ge=1, le=1024)] = 64
    inodes: Annotated[int, Meta(ge=64, le=65_536)] = 4096
    stdout_kb: Annotated[int, Meta(ge=1, le=16_384)] = 1024
    stderr_kb: Annotated[int, Meta(ge=1, le=16_384)] = 256
    output_mb: Annotated[int, Meta(ge=1, le=256)] = 16
    result_kb: Annotated[int, Meta(ge=1, le=1024)] = 1024
    memory_state_kb: Annotated[int, Meta(ge=1, le=1024)] = 1024
    code_kb: Annotated[int, Meta(ge=1, le=512)] = 256
    settings_kb: Annotated[int, Meta(ge=1, le=256)] = 64
    input_mb: Annotated[int, Meta(ge=0, le=64)] = 8
    artifacts: Annotated[int, Meta(ge=0, le=256)] = 16
    artifact_mb: Annotated[int, Meta(ge=1, le=64)] = 8
    llm_calls: Annotated[int, Meta(ge=0, le=1000)] = 20
    llm_wait_s: Annotated[int, Meta(ge=1, le=3600)] = 300
    prompt_kb: Annotated[int, Meta(ge=1, le=512)] = 64
    paused: Annotated[int, Meta(ge=1, le=256)] = 32
    queue: Annotated[int, Meta(ge=1, le=1000)] = 100
