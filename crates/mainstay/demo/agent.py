"""Stands in for an LLM agent in `mainstay demo`: reads, runs the tests, asks, edits, commits.

Speaks the line-by-line JSON that agent CLIs offer: one event per line each way. It has nothing but what the sandbox
gives it: a clone of the repository in the workspace, git and python3 from the host's read-only /usr, no network.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

STEP = 0
PACE_S = 0.25  # an LLM thinks longer; long enough that the control plane dies in the middle of the work


def tell(kind, text, **more):
    """One event. Steps are numbered so that the reader can see that none is lost and none comes twice."""
    global STEP
    STEP += 1
    print(json.dumps({"type": kind, "step": STEP, "text": text, **more}), flush=True)
    time.sleep(PACE_S)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def hear():
    line = sys.stdin.readline()
    if not line:
        sys.exit("no more input, but I still had a question")
    return json.loads(line)["message"]["content"]


def main():
    task = hear()
    tell("assistant", f"Task understood: {task.strip().splitlines()[-1]}")
    granted = sorted(p.name for p in pathlib.Path("/mainstay/credentials/git").iterdir())
    tell("assistant", f"I was granted the credential git: {', '.join(granted)}")

    code, out = run("git", "clone", "-q", "/mainstay/files/repo.bundle", "/workspace/repo")
    if code:
        sys.exit(f"clone failed: {out}")
    os.chdir("/workspace/repo")
    tell("tool", "git clone -> " + run("git", "log", "--oneline", "-1")[1])

    source = pathlib.Path("fares.py")
    tell("tool", f"read fares.py -> {len(source.read_text().splitlines())} lines")
    code, out = run("/usr/bin/python3", "-m", "unittest", "-q")
    failing = re.findall(r"^FAIL: (\w+)", out, re.M)
    tell("tool", f"run tests -> exit {code}, failing: {', '.join(failing)}")
    tell("assistant", "The loop that gives change stops one coin early: `left > coin` should be `left >= coin`.")

    tell("question", "May I change it and commit?")
    answer = hear()
    tell("assistant", f"Answer: {answer}")

    source.write_text(source.read_text().replace("while left > coin:", "while left >= coin:"))
    tell("tool", "edit fares.py")
    code, out = run("/usr/bin/python3", "-m", "unittest", "-q")
    tell("tool", f"run tests -> exit {code}", output=out)
    if code:
        sys.exit("the tests still fail")
    identity = ["-c", "user.name=demo agent", "-c", "user.email=agent@mainstay.invalid"]
    code, out = run("git", *identity, "commit", "-qam", "fares: give the last coin of the change, too")
    if code:
        sys.exit(f"commit failed: {out}")
    tell("tool", "git commit -> " + run("git", "log", "--oneline", "-1")[1])
    tell("patch", "the work", patch=run("git", "format-patch", "--stdout", "-1")[1] + "\n")
    tell("result", "done")


main()
