#!/usr/bin/env bash
# Sees that the tests leave nothing behind: no container in any state, no image, volume, process,
# mounted file system or loop device.
# `before` notes what is there, `after` compares.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
note=target/leftovers
list() {
  docker ps -a --format '{{.ID}} {{.Label "mcp-codex-orchestrator.owner"}}' | sed 's/^/container /'
  docker image ls --format '{{.Repository}}:{{.Tag}}' | sed 's/^/image /'
  docker volume ls -q | sed 's/^/volume /'
  pgrep -af "$PWD/target/.*/mcp-codex-orchestrator" | sed 's/^/process /' || true
  # Of tests/host_fs, which has this in the name of every directory that it works in.
  pgrep -af 'ntfs-3g|exfat' | grep codex-host-fs- | sed 's/^/process /' || true
  grep -o '[^ ]*codex-host-fs-[^ ]*' /proc/mounts | sed 's/^/mount /' || true
  losetup -n -l -O NAME,BACK-FILE 2>/dev/null | grep codex-host-fs- | sed 's/^/loop device /' || true
  find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'codex-host-fs-*' | sed 's/^/directory /'
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
