"""A digest of py-spy's folded stacks: where each thread of the worker spends its time."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

_TOP = 40
_LEAST = 0.01


def digest(path: Path) -> str:
    """Return the functions with the most samples, of each busy kind of thread.

    "self" counts samples in the function itself, "all" those in what it calls as well.
    """
    threads = _by_thread(path)
    total = sum(sum(stacks.values()) for stacks in threads.values())
    lines = []
    for thread, stacks in sorted(threads.items(), key=lambda item: -sum(item[1].values())):
        samples = sum(stacks.values())
        lines.append(f"{thread}: {samples} samples, {samples / total:.0%} of the process")
        own: Counter[str] = Counter()
        inclusive: Counter[str] = Counter()
        for stack, count in stacks.items():
            frames = [frame.rpartition(":")[0] or frame for frame in stack]
            own[frames[-1]] += count
            inclusive.update(dict.fromkeys(frames, count))
        for title, counts in (("self", own), ("all", inclusive)):
            lines += [
                f"  {title} {count / samples:4.0%}  {name}"
                for name, count in counts.most_common(_TOP)
                if _LEAST <= count / samples < 1
            ]
    return "\n".join(lines)


def _by_thread(path: Path) -> dict[str, Counter[tuple[str, ...]]]:
    threads: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        # "thread (0x7f…): durable-activity-3": threads of one kind are counted together.
        kind = thread.partition(": ")[2].rstrip("0123456789").rstrip("-") or thread
        if frames:
            threads[kind][tuple(frames)] += int(count)
    return threads
