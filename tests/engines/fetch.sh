#!/usr/bin/env bash
# Fetches Debian packages and unpacks them to a directory; nothing is installed.
#
# The mirror and the keyring are those of this machine's own apt; the lists and the state are apart,
# so that another release's packages can be had without the machine knowing of it.
set -euo pipefail

usage() { echo "usage: fetch.sh TO SUITE PACKAGE... [SUITE: PACKAGE...]" >&2; exit 2; }
[ $# -ge 3 ] || usage
to=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
store=$PWD/target/engines/apt
say() { echo "engines: $*" >&2; }

wanted=$(printf '%s ' "$@")
[ "$(cat "$to/.wanted" 2>/dev/null)" != "$wanted" ] || exit 0

mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
  awk '$2 ~ /^[a-z]+$/ { print $1; exit }')
if [ -z "$mirror" ]; then
  # Without downloaded lists apt tells no targets of an origin; the first Debian archive will do.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    grep -m 1 '/debian/*$' || true)
fi
[ -n "$mirror" ] || { say "apt has no source of Debian packages; run this on a Debian"; exit 3; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || { say "$keyring is missing; install debian-archive-keyring"; exit 3; }

mkdir -p "$store"/{lists,archives}/partial "$store/state"
: >"$store/state/status"
for suite in bookworm trixie; do
  echo "deb [signed-by=$keyring] $mirror $suite main"
done >"$store/sources.list"
apt=(-o "Dir::Etc::sourcelist=$store/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State=$store/state" -o "Dir::State::lists=$store/lists"
  -o "Dir::State::status=$store/state/status" -o "Dir::Cache=$store" -o "Dir::Cache::archives=$store/archives"
  -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
if [ -z "$(find "$store/lists" -name '*Packages*' -mtime -1 2>/dev/null)" ]; then
  say "reading the package lists of bookworm and trixie"
  apt-get "${apt[@]}" update >"$store/update.log" 2>&1 </dev/null || {
    tail -n 5 "$store/update.log" >&2
    say "apt could not read the lists; all its words are in $store/update.log"
    exit 3
  }
fi

suite=$1
names=()
for word in "${@:2}"; do
  case $word in
    *:) suite=${word%:} ;;
    *) names+=("$word/$suite") ;;
  esac
done
rm -rf "$to"
mkdir -p "$to"
downloads=$(mktemp -d "$store/archives/get.XXXXXX")
trap 'rm -rf "$downloads"' EXIT
say "fetching ${names[*]}"
(cd "$downloads" && apt-get "${apt[@]}" download "${names[@]}" >"$store/download.log" 2>&1 </dev/null) || {
  tail -n 5 "$store/download.log" >&2
  say "apt could not fetch them; all its words are in $store/download.log"
  exit 3
}
for package in "$downloads"/*.deb; do
  dpkg -x "$package" "$to"
done
# What older packages put beside /usr belongs in it, as on every system since bookworm.
for part in bin sbin lib lib64; do
  if [ -d "$to/$part" ] && [ ! -L "$to/$part" ]; then
    mkdir -p "$to/usr/$part"
    cp -a "$to/$part/." "$to/usr/$part/"
    rm -rf "${to:?}/$part"
  fi
done
printf '%s' "$wanted" >"$to/.wanted"
