#!/usr/bin/env bash
# Runs the tests against other engines than the machine's own, each beside it and out of its sight.
#
#   for each engine: packages (fetch.sh) ─> namespaces of its own (inside.sh) ─> image: save | load
#                    ─> tests ─> what `doctor` and the pool say ─> taken down ─> nothing left?
#
# Mounts, pids and the network of an engine are in namespaces whose pid 1 this script ends, so that
# nothing outlives it, whatever happens.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tests/engines/run.sh [--up] [NAME...]

  NAME   docker-20 docker-26 podman runsc docker-rootless podman-rootless (default: all of these)
  --up   bring one engine up with the image in it and wait for Enter, instead of running tests

Environment: CODEX_IMAGE         the image to test with (default codex-runner:latest)
             ENGINES_KEEPER      which tests of --test keeper to run, words of their names
             ENGINES_IT          which tests of --test it to run, likewise
             ENGINES_WAIT        seconds to wait for an engine (default 60)
             ENGINES_PATIENCE    seconds that one test program may take (default 900)
Needs root on a Debian 12, an engine with the image, and apt's own source of packages.
TEXT
}

up=false
names=()
for word in "$@"; do
  case $word in
    --up) up=true ;;
    -h | --help) usage; exit 0 ;;
    docker-20 | docker-26 | podman | runsc | docker-rootless | podman-rootless) names+=("$word") ;;
    *) usage >&2; exit 2 ;;
  esac
done
[ ${#names[@]} -gt 0 ] || names=(docker-20 docker-26 podman runsc docker-rootless podman-rootless)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cd "$here/../.."
work=$PWD/target/engines
image=${CODEX_IMAGE:-codex-runner:latest}
limit=${ENGINES_WAIT:-60}
patience=${ENGINES_PATIENCE:-900}
read -r -a keeper <<<"${ENGINES_KEEPER:-life kept collected}"
read -r -a it <<<"${ENGINES_IT:-main_job leftovers outcome cancel}"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
say() { echo "engines: $*" >&2; }
die() { say "$*"; exit 3; }

[ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || die "this needs root on Linux; run it with sudo"
for command in apt-get dpkg docker unshare setpriv pgrep; do
  command -v "$command" >/dev/null || die "$command is needed and not installed"
done
docker image inspect "$image" >/dev/null 2>&1 || die "the engine has no $image; run: make image"
mkdir -p "$work"
exec 8>"$work/lock"
flock -n 8 || die "another run of this is going on"

# What each engine is made of. Debian 12 is bookworm, the release after it trixie. trixie's runc
# needs trixie's libc, which lies over the machine's for what runs in that engine's namespace.
network="iptables libip4tc2 libip6tc2 libxtables12 libmnl0 libnfnetlink0 libnetfilter-conntrack3 libnftnl11"
docker="bookworm docker.io containerd runc tini libdevmapper1.02.1 $network"
podman="bookworm podman conmon golang-github-containers-common golang-github-containers-image netavark
  aardvark-dns runc catatonit libdevmapper1.02.1 libgpgme11 libassuan0 libsubid4 libglib2.0-0 $network"
user="uidmap libsubid4 slirp4netns libslirp0 libglib2.0-0"
packages() {
  case $1 in
    docker-20) echo "$docker" ;;
    docker-26) echo "bookworm tini $network trixie: docker.io containerd runc libc6" ;;
    runsc) echo "$docker runsc" ;;
    podman) echo "$podman" ;;
    docker-rootless) echo "$docker rootlesskit $user" ;;
    podman-rootless) echo "$podman fuse-overlayfs libfuse3-3 $user" ;;
  esac
}

name='' shell='' sockets='' testing=''

# cgroups are the one thing that a namespace does not take with it.
own_cgroups() {
  find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "codex-engines-$1*" 2>/dev/null || true
  [ "$1" != podman ] || find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name libpod_parent 2>/dev/null || true
}

down() {
  [ -n "$name" ] || return 0
  local code=0 pid one
  if [ -n "$testing" ]; then
    kill -KILL -- "-$testing" 2>/dev/null || true
    wait "$testing" 2>/dev/null || true
    testing=
  fi
  if [ -n "$shell" ]; then
    # The engine itself is asked first, so that it takes down what it made.
    pid=$(pgrep -P "$shell" || true)
    [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
      kill -0 "$shell" 2>/dev/null || break
      sleep 0.1
    done
    # With the first process of a pid namespace all others in it end.
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    kill -KILL "$shell" 2>/dev/null || true
    wait "$shell" 2>/dev/null || true
  fi
  for one in $(own_cgroups "$name"); do
    grep -qxF "$one" "$work/cgroups.before" && continue
    for _ in $(seq 50); do
      find "$one" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$one" ] || break
      sleep 0.1
    done
    [ ! -d "$one" ] || { say "left: the cgroup $one"; code=1; }
  done
  for one in "$work/$name/data" "$sockets"; do
    [ -z "$one" ] || rm -rf --one-file-system "$one" || { say "left: $one"; code=1; }
  done
  one=$(grep -F "$work/$name/" /proc/mounts || true)
  [ -z "$one" ] || { say "left mounted: $one"; code=1; }
  one=$(pgrep -af "$work/$name/data" | grep -v "^$$ " || true)
  [ -z "$one" ] || { say "left running: $one"; code=1; }
  [ $code != 0 ] || say "$name is down; nothing of it is left"
  name='' shell='' sockets=''
  return $code
}
trap 'down || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Brings the engine up and sets DOCKER_HOST to it, or gives the reason in $reason.
bring_up() {
  # shellcheck disable=SC2046 # a list of words
  "$here/fetch.sh" "$work/$1/packages" $(packages "$1") || { reason="packages could not be had"; return 1; }
  name=$1
  own_cgroups "$name" >"$work/cgroups.before"
  rm -rf --one-file-system "$work/$name/data"
  mkdir -p "$work/$name/data"
  # A socket's path may have no more than 107 bytes; a checkout's may have.
  sockets=$(mktemp -d /tmp/codex-engine.XXXXXX)
  chmod 755 "$sockets"
  local log=$work/$name/engine.log
  setsid unshare --mount --net --ipc --pid --fork --kill-child --mount-proc --propagation private \
    "$here/inside.sh" "$name" "$work/$name/packages" "$work/$name/data" "$sockets/engine.sock" \
    >"$log" 2>&1 </dev/null 8>&- &
  shell=$!
  export DOCKER_HOST=unix://$sockets/engine.sock
  local until=$((SECONDS + limit))
  until version=$(timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null) && [ -n "$version" ]; do
    if ! kill -0 "$shell" 2>/dev/null; then
      reason="it ended: $(tail -n 1 "$log")"
      return 1
    fi
    [ $SECONDS -lt $until ] || { reason="it did not answer within $limit s: $(tail -n 1 "$log")"; return 1; }
    sleep 0.2
  done
  say "$name is $version; loading $image into it"
  if ! env -u DOCKER_HOST docker save "$image" | docker load >"$work/$name/load.log" 2>&1; then
    reason="it does not load the image: $(tail -n 1 "$work/$name/load.log")"
    return 1
  fi
  # Podman gives what has no registry in its name the one of this machine.
  docker image inspect "$image" >/dev/null 2>&1 || { reason="the image is not there after loading"; return 1; }
}

# Runs a test program with these arguments; adds up what passed and failed.
tests() {
  local log=$work/$name/tests.log line program=$1
  program=$(sed -n "s|^ *Executable tests/$1[/.].*(\(.*\))$|\1|p" "$work/build.log")
  shift
  # In a group of its own and waited for, so that a signal to this script ends it at once.
  CODEX_TESTS_REQUIRE_ENGINE=1 CODEX_IMAGE=$image setsid timeout --foreground "$patience" "$program" "$@" \
    >"$log.last" 2>&1 </dev/null 8>&- &
  testing=$!
  wait "$testing" || true
  testing=
  cat "$log.last" >>"$log"
  line=$(grep '^test result:' "$log.last" | tail -n 1 || true)
  if [ -z "$line" ]; then
    # It did not come to its end; what it said until then counts, and it failed.
    passed=$((passed + $(grep -c '^test .* ok$' "$log.last" || true)))
    failed=$((failed + 1))
    return
  fi
  passed=$((passed + $(sed 's/.* \([0-9]*\) passed.*/\1/' <<<"$line")))
  failed=$((failed + $(sed 's/.* \([0-9]*\) failed.*/\1/' <<<"$line")))
}

# What this program itself finds out about the engine: the line of `doctor` about one container.
ask() {
  local home=$work/$name/data/doctor
  mkdir -p "$home"
  CODEX_IMAGE=$image HOME=$home XDG_STATE_HOME=$home/state XDG_CONFIG_HOME=$home/config timeout 100 \
    target/debug/mcp-codex-orchestrator doctor --json >"$work/$name/doctor.json" 2>"$work/$name/doctor.log" || true
  lacks=$(sed -n '/"name": "container"/,/"found"/s/.*"found": "\(.*\)",*$/\1/p' "$work/$name/doctor.json")
  case $lacks in
    *"reset after each run"*) recycle=reset ;;
    *"destroyed after each run"*) recycle=destroy ;;
    *) recycle=- broken=1 ;;
  esac
  lacks=$(sed 's/^armed in [0-9]* ms; //; s/; reset after each run$//; s/^reset after each run$/nothing/' <<<"$lacks")
}

table=$work/table.txt
row() { printf '%-16s  %-10s  %-14s  %-9s  %s\n' "$@" | tee -a "$table"; }
: >"$table"
$up || row engine version "tests passed" recycle "does not enforce"
broken=0
own=$(docker version --format '{{.Server.Version}}')
say "the machine's own engine is Docker $own; it is not touched"
$up || cargo test --no-run --test engine --test keeper --test it >"$work/build.log" 2>&1 ||
  { tail -n 20 "$work/build.log" >&2; die "the tests do not compile"; }
for one in "${names[@]}"; do
  passed=0 failed=0 reason='' version='-' lacks='' recycle='-'
  unset DOCKER_HOST
  if bring_up "$one"; then
    if $up; then
      echo "DOCKER_HOST=$DOCKER_HOST"
      read -r -p "Enter takes it down. " _ || true
    else
      : >"$work/$one/tests.log"
      tests engine
      tests keeper "${keeper[@]}"
      tests it "${it[@]}"
      ask
      [ "$failed" = 0 ] || broken=1
    fi
  else
    failed=1 broken=1 lacks="not run: $reason"
  fi
  $up || row "$one" "$version" "$passed of $((passed + failed))" "${recycle:--}" "${lacks:-not told}"
  unset DOCKER_HOST
  down || broken=1
done
$up || say "the table is in $table"
exit $broken
