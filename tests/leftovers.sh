#!/usr/bin/env bash
# Sees that the tests leave nothing behind: no container in any state, no image,
# volume or process.
# `before` notes what is there, `after` compares.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
note=target/leftovers
list() {
  docker ps -a --format '{{.ID}} {{.Label "mcp-codex-orchestrator.owner"}}' | sed 's/^/container /'
  docker image ls --format '{{.Repository}}:{{.Tag}}' | sed 's/^/image /'
  docker volume ls -q | sed 's/^/volume /'
  pgrep -af "$PWD/target/.*/mcp-codex-orchestrator" | sed 's/^/process /' || true
}
case ${1:-} in
  before)
    list | sort > "$note"
    ;;
  after)
    for _ in $(seq 50); do
      left=$(list | sort | comm -13 "$note" -)
      [ -n "$left" ] || { echo "The tests left nothing behind."; exit 0; }
      sleep 0.2
    done
    printf 'The tests left behind:\n%s\n' "$left" >&2
    exit 1
    ;;
  *)
    echo "usage: leftovers.sh before|after" >&2
    exit 2
    ;;
esac
