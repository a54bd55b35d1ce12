"""The configuration that `--cfg job` prints, with the name of each part as a comment."""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = re.compile(r"( *)([\w-]+):(?: .*)?$")


def named(page: str, choices: Mapping[str, object]) -> str:
    """The YAML `page` with a comment at each part: `schedule: {} # schedule=fixed`; other choices are at the top.

    `choices`: Hydra's, by group, or by group@slot if the slot has another name than the group.
    """
    chosen = {group: name for group, name in choices.items() if name and not group.startswith("hydra/")}
    slots = {group.partition("@")[2] or group: f"{group}={name}" for group, name in chosen.items()}
    lines, path, found = [], [""], set()
    for line in page.splitlines():
        if match := KEY.match(line):
            depth = len(match[1]) // 2
            path[depth:] = [match[2]]
            slot = ".".join(path)
            if slot in slots:
                line += f" # {slots[slot]}"
                found.add(slot)
        lines.append(line)
    others = [choice for slot, choice in slots.items() if slot not in found and slot != "constants"]
    return "\n".join([*([f"# {' '.join(others)}"] if others else []), *lines])
