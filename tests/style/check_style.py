#!/usr/bin/env python3
"""The house rules that a script can check: includes point up the table of rooms, banned calls,
public headers that stand alone. Prints every breach and exits 1 if there is one."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
ROOMS = ["base", "program", "kernels", "runtime", "text", "quantise", "compiler", "grammar", "sampling", "kvcache", "scheduler",
         "frontend_dsl", "disagg", "server", "tools"]
# Rooms whose view is narrower than "everything above".
NARROW = {"kernels": {"base", "program"}, "runtime": {"base", "program"}, "text": {"base", "program"},
          "sampling": {"base"}, "kvcache": {"base"}, "grammar": {"base", "program", "text"},
          "scheduler": {"base", "program", "runtime", "kvcache", "sampling", "grammar", "text"},
          "frontend_dsl": {"base", "program", "text", "grammar", "sampling", "scheduler"}}
BANNED = re.compile(r"\b(sprintf|vsprintf|strcpy|strcat|strtok|atoi|atol|atof|alloca|gets)\s*\(")
OUTSIDE_BASE = re.compile(r"\b(strtod|strtof)\s*\(")
OUTSIDE_TOOLS = re.compile(r"\b(exit|_exit|abort|printf|puts|perror|getenv|secure_getenv)\s*\(")

breaches = []


def code_of(text):
    """The text without comments and string contents."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', re.sub(r"//[^\n]*", "", text))


for path in sorted((ROOT / "src").rglob("*.[ch]")) + sorted((ROOT / "src").rglob("*.def")):
    room = path.relative_to(ROOT / "src").parts[0]
    text = path.read_text()
    where = path.relative_to(ROOT)
    for line, include in re.findall(r'(?m)^(\s*#\s*include\s+"([^"]+)")', text):
        target = include.split("/")[0]
        if target == "serverd" or target not in ROOMS or target == room:
            continue
        allowed = NARROW.get(room, set(ROOMS[: ROOMS.index(room)]))
        if target not in allowed:
            breaches.append(f"{where}: includes {include}, but {room} may not see {target}")
        elif include.endswith("_internal.h"):
            breaches.append(f"{where}: includes {include}, which is {target}'s own")
    for number, line in enumerate(code_of(text).split("\n"), 1):
        for rule, ok in ((BANNED, False), (OUTSIDE_BASE, room == "base"), (OUTSIDE_TOOLS, room == "tools")):
            found = rule.search(line)
            if found and not ok:
                breaches.append(f"{where}:{number}: {found.group(1)} is not used here")

for header in sorted((ROOT / "include").rglob("*.h")):
    for language in ("c", "c++"):
        done = subprocess.run(["cc", "-x", language, "-fsyntax-only", "-Wall", "-Werror", f"-I{ROOT}/include", header],
                              capture_output=True, text=True)
        if done.returncode:
            breaches.append(f"{header.relative_to(ROOT)} does not stand alone as {language}: {done.stderr[:300]}")

for breach in breaches:
    print(breach)
print(f"{len(breaches)} breaches")
sys.exit(bool(breaches))
