#!/bin/sh
# Calls one function of this project and checks that it answers 200 with JSON. Starts the project if it is not running.
#
#   scripts/test-edge-function-local.sh NAME [JSON]
#
# TRAMLINE names the program when it is not on PATH.
set -eu

name=${1:?usage: $0 NAME [JSON]}
input=${2:-'{}'}
tramline=${TRAMLINE:-tramline}
cd "$(dirname "$0")/.."
if ! command -v "$tramline" >/dev/null; then
  echo "$name: there is no program $tramline: put it on PATH, or name it in TRAMLINE" >&2
  exit 1
fi

work=$(mktemp -d)
dev=
finish() {
  if [ -n "$dev" ]; then
    kill -TERM "$dev" 2>/dev/null || true
    wait "$dev" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() {
  echo "$name: $1" >&2
  cat "$work/said" "$work/answer" >&2 2>/dev/null || true
  exit 1
}

if ! "$tramline" status >/dev/null 2>&1; then
  echo "starting the project"
  "$tramline" dev --port 0 --db-port 0 >"$work/said" 2>&1 &
  dev=$!
  until "$tramline" status >/dev/null 2>&1; do
    kill -0 "$dev" 2>/dev/null || fail "the project does not start"
    sleep 0.2
  done
fi

# an error status ends the program with an error too; what was answered tells more
"$tramline" function invoke "$name" --data "$input" --json >"$work/answer" 2>"$work/said" || true
grep -q '^  "status": 200$' "$work/answer" || grep -q '^  "status": 200,$' "$work/answer" || fail "it did not answer 200"
grep -qi '^    "content-type": "application/json' "$work/answer" || fail "its answer is not JSON by its content-type"
if grep -q '^  "body": "' "$work/answer"; then
  fail "its answer is no JSON object or list"
fi
echo "$name: 200 with JSON"
