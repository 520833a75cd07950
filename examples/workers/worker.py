#!/usr/bin/env python3
"""A worker for a pull queue, over the functions that supabase.rpc() finds. Standard library only, Python 3.9 or newer:

    TRAMLINE_URL=http://127.0.0.1:54321 TRAMLINE_KEY=<service role key> python3 worker.py

It takes runs until it is stopped; with --once it ends when the queue is empty. SIGINT and SIGTERM let the present run end first.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request


# ---- your work: one function for each target -------------------------------------------------------------------


def checksum(job):
    """Hashes a text."""
    text = str(job.run["input"].get("text", "")).encode()
    job.log("hashing", {"bytes": len(text)})
    digest = hashlib.sha256(text).hexdigest()
    job.artifact("text", kind="text", sha256=digest, bytes=len(text), validated=True)
    return {"sha256": digest}


def wait(job):
    """Takes a while, and stops at once when the run is cancelled."""
    if job.lost.wait(float(job.run["input"].get("ms", 1000)) / 1000):
        raise Lost("the claim was lost")
    return {"waited": True}


HANDLERS = {"checksum": checksum, "wait": wait}

# ---- the worker ------------------------------------------------------------------------------------------------

PAUSE_SECONDS = 1.0  # between two tries, and between two looks at an empty queue


def setting(name, otherwise=None):
    value = os.environ.get(name, otherwise)
    if value is None:
        sys.exit(f"error: {name} is not set")
    return value


URL = setting("TRAMLINE_URL").rstrip("/")
KEY = setting("TRAMLINE_KEY")
QUEUE = setting("TRAMLINE_QUEUE", "ops")
WORKER = setting("TRAMLINE_WORKER", f"py-{os.getpid()}")
LEASE_SECONDS = float(setting("TRAMLINE_LEASE_SECONDS", "60"))


class Refused(Exception):
    """The database refused a call; code is its SQLSTATE."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Lost(Exception):
    """The run was taken away."""


def rpc(name, schema="public", **arguments):
    """Calls a function. A node that is not there or stops is asked again: everything here may be said twice."""
    request = urllib.request.Request(
        f"{URL}/rest/v1/rpc/{name}",
        data=json.dumps(arguments).encode(),
        headers={
            "authorization": f"Bearer {KEY}",
            "apikey": KEY,
            "content-type": "application/json",
            "content-profile": schema,
        },
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read() or b"{}")
            if error.code < 500:
                raise Refused(answer.get("code"), answer.get("message")) from None
            why = f"{error.code} {answer.get('message')}"
        except (urllib.error.URLError, OSError) as error:
            why = str(error)
        print(f"trying again: {why}", file=sys.stderr, flush=True)
        time.sleep(PAUSE_SECONDS)


class Job:
    """A run while it is worked on. lost is set when it was taken away: stop then, nobody wants the result."""

    def __init__(self, run):
        self.run = run
        self.lost = threading.Event()
        self.over = threading.Event()

    def log(self, message, payload=None, level="info"):
        self.call("append_event", p_level=level, p_message=message, p_payload=payload or {}, p_fence=self.run["fence"])

    def artifact(self, name, **fields):
        given = {f"p_{field}": value for field, value in fields.items()}
        self.call("add_artifact", p_name=name, p_fence=self.run["fence"], **given)

    def call(self, function, **arguments):
        return rpc(function, "ops", p_run_id=self.run["run_id"], **arguments)

    def beat(self):
        while not self.over.wait(LEASE_SECONDS / 3):
            try:
                self.call("heartbeat_run", p_fence=self.run["fence"])
            except Refused:
                self.lost.set()
                return


def work(run):
    job = Job(run)
    threading.Thread(target=job.beat, daemon=True).start()
    try:
        handler = HANDLERS.get(run["target"])
        if handler is None:
            raise LookupError(f"this worker has no handler for {run['target']}")
        end = {"p_status": "success", "p_output": handler(job)}
    except Lost:
        end = None
    except Refused as refused:
        end = None if refused.code == "TL409" else {"p_status": "failed", "p_error": {"code": refused.code, "message": str(refused)}}
    except Exception as error:  # whatever a handler raises is the run's failure, not the worker's
        end = {"p_status": "failed", "p_error": {"code": "worker_failed", "message": str(error)}}
    finally:
        job.over.set()
    try:
        if end is not None and not job.lost.is_set():
            job.call("finish_run", p_metadata={"worker_id": WORKER}, p_fence=run["fence"], **end)
            print(f"{run['run_id']} {run['target']} {end['p_status']}", flush=True)
            return
        why = "the claim was lost"
    except Refused as refused:
        why = str(refused)
    print(f"{run['run_id']} {run['target']} lost: {why}", flush=True)


def main():
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        run = rpc("claim_next_run", p_worker_id=WORKER, p_queue=QUEUE, p_lease=f"{LEASE_SECONDS} seconds")
        if run is not None:
            work(run)
        elif "--once" in sys.argv:
            return
        else:
            stop.wait(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
