#!/usr/bin/env bash
# Pid 1 of an engine's own namespaces (mounts, pids, network, IPC); started by run.sh. When it ends,
# everything in them is gone.
#
# The unpacked packages lie over /usr and /etc, and /run is empty: what runs here cannot see the
# socket, the pid file or the containers of an engine that runs on the machine already.
set -euo pipefail

# A name, the unpacked packages, a directory for data, the socket to listen at.
name=$1 packages=$2 data=$3 socket=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset DOCKER_HOST DOCKER_CONTEXT XDG_RUNTIME_DIR TMPDIR

layers=$data/layers
mkdir -p "$layers"
mount -t tmpfs -o mode=755 layers "$layers"
over() {
  [ -d "$packages$1" ] || mkdir -p "$packages$1"
  mkdir -p "$layers$1/upper" "$layers$1/work"
  mount -t overlay -o "lowerdir=$packages$1:$1,upperdir=$layers$1/upper,workdir=$layers$1/work" "$name" "$1"
}
over /etc
over /usr
mount -t tmpfs -o mode=755 run /run
ip link set lo up

# A user who is nobody on the machine itself.
user=codex-rootless uid=60321
make_user() {
  echo "$user:x:$uid:$uid::$data/home:/bin/bash" >>/etc/passwd
  echo "$user:x:$uid:" >>/etc/group
  echo "$user:400000:65536" >>/etc/subuid
  echo "$user:400000:65536" >>/etc/subgid
  mkdir -p "$data/home" "/run/user/$uid"
  chown "$uid:$uid" "$data/home" "/run/user/$uid" "$(dirname "$socket")"
  chmod 700 "/run/user/$uid"
}
# Runs a command as that user, who may walk to the data and no further.
as_user() {
  setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all env -i "PATH=$PATH" \
    "HOME=$data/home" "USER=$user" "XDG_RUNTIME_DIR=/run/user/$uid" "$@"
}

docker_flags=(--data-root "$data/docker" --exec-root /run/docker --pidfile /run/docker.pid
  --host "unix://$socket" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/codex-engines-$name")
case $name in
  docker-20 | docker-26)
    dockerd "${docker_flags[@]}" &
    ;;
  runsc)
    # Debian 12's runsc takes every network namespace for the host's where the kernel is 6.x ("cannot
    # run with network enabled in root network namespace"), so it gives a loopback interface only.
    mkdir -p /etc/docker
    echo '{"runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}}' \
      >/etc/docker/daemon.json
    dockerd "${docker_flags[@]}" --default-runtime runsc &
    ;;
  podman)
    cp "$here/containers.conf" /etc/containers/containers.conf
    podman --root "$data/podman" --runroot /run/podman --cgroup-manager cgroupfs \
      system service --time 0 "unix://$socket" &
    ;;
  docker-rootless)
    make_user
    # The network of this namespace, which has a loopback interface only: slirp4netns would need
    # /dev/net/tun, which not every machine lets everybody open.
    as_user rootlesskit --net=host --copy-up=/etc --copy-up=/run \
      "--state-dir=/run/user/$uid/rootlesskit" \
      dockerd --rootless --bridge=none --iptables=false --ip6tables=false --data-root "$data/home/docker" --exec-root "/run/user/$uid/docker" \
      --pidfile "/run/user/$uid/docker.pid" --host "unix://$socket" --exec-opt native.cgroupdriver=cgroupfs &
    ;;
  podman-rootless)
    make_user
    cp "$here/containers.conf" /etc/containers/containers.conf
    as_user podman --cgroup-manager cgroupfs system service --time 0 "unix://$socket" &
    ;;
  *)
    echo "no engine is called $name" >&2
    exit 2
    ;;
esac
engine=$!
# Pid 1 hears no signal that it does not ask for.
trap 'kill -TERM $engine 2>/dev/null || true' TERM
# A trapped signal ends the first wait; the second is for the engine's own end.
wait "$engine" || wait "$engine" || exit $?
