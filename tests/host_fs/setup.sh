#!/usr/bin/env bash
# Installs the file systems that tests/host_fs mounts besides the kernel's own: NTFS and exFAT, each
# a program that needs /dev/fuse.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need lowntfs-3g ntfs-3g
need mount.exfat-fuse exfat-fuse
need mkfs.exfat exfatprogs
need mkfs.ext4 e2fsprogs
[ ${#packages[@]} -gt 0 ] || exit 0

say() { echo "host_fs: $*" >&2; }
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  say "needed and not installed: ${packages[*]}; install them, and run the tests as root"
  exit 3
fi
say "installing ${packages[*]} with apt-get"
log=$(mktemp)
{
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
} >"$log" 2>&1 </dev/null || {
  tail -n 20 "$log" >&2
  say "apt-get could not install them; its last words are above, all of them in $log"
  exit 3
}
rm -f "$log"
