#!/usr/bin/env bash
# Sees to it that a container engine answers; used by `make engine` and everything that needs one.
#
#   answers ──────────────────────────────────────────────────────────────> used as it is
#   does not answer, and the user chose it (DOCKER_HOST, a context) ──────> says so; nothing is done
#   does not answer, Linux, root:   dockerd is there ──> started ─────────> waited for
#                                   no dockerd, apt ───> docker.io installed, then started
#   otherwise ────────────────────────────────────────────────────────────> says what to do
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: docker/engine.sh [--dry-run]

  --dry-run   only say what would be done

Environment: ENGINE_LOG   file for dockerd's output (default /var/log/dockerd.log)
             ENGINE_WAIT  seconds to wait for a started engine (default 60)
TEXT
}

log=${ENGINE_LOG:-/var/log/dockerd.log}
limit=${ENGINE_WAIT:-60}
dry_run=false

say() { echo "engine: $*" >&2; }
die() { echo "engine: $*" >&2; exit 3; }

case ${1:-} in
  '') ;;
  --dry-run) dry_run=true ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

have() { command -v "$1" >/dev/null; }

# Runs a command for so many seconds at most, where the system has the means.
within() { if have timeout; then timeout "$@"; else shift && "$@"; fi; }

# The server's version, or the client's words and a failure.
answer() {
  local words code=0
  words=$(within 10 docker version --format '{{.Server.Version}}' 2>&1 </dev/null) || code=$?
  tr -s '\n ' ' ' <<<"$words" | sed 's/^ //; s/ $//'
  return $code
}

if have docker && version=$(answer); then
  say "Docker $version answers"
  exit 0
fi
words=${version:-there is no docker command}

if [ -n "${DOCKER_HOST:-}" ]; then
  die "DOCKER_HOST is $DOCKER_HOST and no engine answers there ($words); start that engine or unset DOCKER_HOST"
fi
if have docker && context=$(docker context show 2>/dev/null) && [ "$context" != default ]; then
  die "the Docker context is \"$context\" and its engine does not answer ($words); start it, or run: docker context use default"
fi
[ "$(uname -s)" = Linux ] || die "no engine answers ($words); start Docker Desktop, Colima or the like and try again"
case $words in
  *"permission denied"*)
    die "you may not use Docker's socket; add yourself to its group (sudo usermod -aG docker $(id -un)) and log in again"
    ;;
esac
if [ "$(id -u)" != 0 ]; then
  if have dockerd; then
    die "Docker is installed and not running; start it: sudo systemctl start docker (or run this as root)"
  fi
  die "no engine is installed; install Docker (Debian, Ubuntu: sudo apt-get install docker.io), or run this as root"
fi

if ! have dockerd || ! have docker; then
  have apt-get || die "no engine is installed and there is no apt-get to install one with; install Docker"
  say "no engine is installed; installing Debian's (docker.io, iptables) with apt-get"
  if ! $dry_run; then
    apt_log=$(mktemp)
    {
      apt-get update
      packages=(docker.io iptables)
      # Newer releases have the client in a package of its own.
      ! apt-cache show docker-cli || packages+=(docker-cli)
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
    } >"$apt_log" 2>&1 </dev/null || {
      tail -n 20 "$apt_log" >&2
      die "apt-get could not install docker.io; its last words are above, all of them in $apt_log"
    }
    rm -f "$apt_log"
    hash -r
    # Where there is a service manager the package has started it.
    if version=$(answer); then
      say "Docker $version answers"
      exit 0
    fi
  fi
fi

if [ -d /run/systemd/system ] && have systemctl && systemctl cat docker.service >/dev/null 2>&1; then
  say "starting docker.service"
  $dry_run || systemctl start docker >&2 || die "docker.service did not start; see: journalctl -u docker"
  pid=
else
  say "starting dockerd; its output goes to $log"
  $dry_run || {
    # After a SIGKILL its pid files stay, and a new one takes them for a running daemon.
    for file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
      [ -f "$file" ] || continue
      name=$(cat "/proc/$(cat "$file")/comm" 2>/dev/null || true)
      case $name in
        dockerd | containerd) ;;
        *) say "removing the stale $file"; rm -f "$file" ;;
      esac
    done
    # In its own session, and with nothing of ours open: who reads our output must not wait for it.
    (
      for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null || true
      done
      exec setsid dockerd </dev/null >"$log" 2>&1
    ) &
    pid=$!
  }
fi
! $dry_run || exit 0

until=$((SECONDS + limit))
while :; do
  if version=$(answer); then
    say "Docker $version answers"
    exit 0
  fi
  if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
    tail -n 20 "$log" >&2
    die "dockerd ended right after its start; its last words are above, all of them in $log"
  fi
  if [ "$SECONDS" -ge "$until" ]; then
    [ -z "$pid" ] || tail -n 20 "$log" >&2
    die "the engine did not answer within $limit s of its start ($version)"
  fi
  sleep 0.2
done
