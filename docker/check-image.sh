#!/usr/bin/env bash
# Does everything ordinary work in the image under the full hardening, and is refused what must be?
# usage: docker/check-image.sh [IMAGE]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=${1:-codex-runner:latest}
tmpfs=rw,exec,nosuid,nodev,nr_inodes=65536

# The files go in as a tar stream, as everything does: the engine may be on another machine.
tar -C "$here/check" -c . | docker run --rm --interactive --user 0 --network none --read-only --ipc private \
  --cap-drop ALL --cap-add KILL --cap-add CHOWN --cap-add FOWNER --cap-add DAC_OVERRIDE --cap-add SETUID --cap-add SETGID \
  --security-opt no-new-privileges --security-opt "seccomp=$here/seccomp.json" \
  --memory 4g --memory-swap 4g --pids-limit 1024 --init \
  --tmpfs "/tmp:$tmpfs,size=512m,mode=1777" --tmpfs "/home/codex:$tmpfs,size=128m,mode=0755" \
  --tmpfs "/run:$tmpfs,size=16m,mode=0755" --tmpfs "/dev/shm:$tmpfs,size=64m,mode=1777" --tmpfs "/check:$tmpfs,size=1m,mode=0755" \
  --volume /app --volume /cache \
  "$image" bash -c 'tar -x --no-same-owner -C /check && exec bash /check/inside.sh'
echo "everything as it should be"
