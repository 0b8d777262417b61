#!/usr/bin/env bash
# Builds the image codex-runner:latest. Used by `make image` and by `mcp-codex-orchestrator image build`.
#
# What goes in: the Debian of packages.txt, Codex as codex.lock pins it, the keeper from src/. All of
# it (with the Dockerfile and this script) is hashed, and the hash is a label of the image, so that
# an old image is told from a fresh one.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: docker/build.sh [--if-needed] [--force] [--builder legacy|buildkit] [--base auto|public|bootstrap|IMAGE]
                       [--image NAME] [--keeper FILE] [--stage] [--inputs]

  --if-needed   do nothing if the image is there and made from what is in this checkout
  --force       use nothing that the engine has cached of earlier builds
  --builder     which builder of docker to use (default: BuildKit where buildx is installed, else legacy)
  --base        public: debian:bookworm-slim from a container registry
                bootstrap: a Debian made here with mmdebstrap, made anew
                IMAGE: any image with a Debian bookworm in it
                auto (default): whichever is on this machine already, else public, else bootstrap
  --image       name of the image (default codex-runner:latest)
  --keeper      a codex-keeper that is built already: a static Linux program
  --stage       only prepare the build context in docker/.cache/context (for docker compose build)
  --inputs      only print the hash of what goes into the image
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname "$here")
cache=$here/.cache
docker=${DOCKER:-docker}
public_base=debian:bookworm-slim
suite=bookworm
pull_limit=90

image=codex-runner:latest
base=auto
builder=auto
keeper=
if_needed=false
force=false
only=

say() { echo "image: $*" >&2; }
die() { echo "image: $*" >&2; exit 1; }

# Runs a command for so many seconds at most, where the system has the means.
within() { if command -v timeout >/dev/null; then timeout "$@"; else shift && "$@"; fi; }

while [ $# -gt 0 ]; do
  case $1 in
    --if-needed) if_needed=true ;;
    --force) force=true ;;
    --builder | --base | --image | --keeper)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    --stage | --inputs) only=${1#--} ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
case $builder in auto | legacy | buildkit) ;; *) die "--builder is legacy or buildkit, not \"$builder\"" ;; esac

case $(uname -m) in
  x86_64) platform=linux-x64 ;;
  aarch64 | arm64) platform=linux-arm64 ;;
  *) die "there is no Codex for this machine's processor ($(uname -m)); x86_64 and aarch64 have one" ;;
esac

# --- What goes in -------------------------------------------------------------------------------

version=$(awk '$1 == "version" { print $2 }' "$here/codex.lock")
triple=$(awk -v p="$platform" '$1 == p { print $2 }' "$here/codex.lock")
integrity=$(awk -v p="$platform" '$1 == p { print $3 }' "$here/codex.lock")
[ -n "$version" ] && [ -n "$integrity" ] || die "docker/codex.lock has no line for $platform"
protocol=$(sed -n 's/^pub const PROTOCOL: u32 = \([0-9]*\);.*/\1/p' "$root/src/keeper/wire.rs")
[ -n "$protocol" ] || die "src/keeper/wire.rs does not state PROTOCOL"

image_files="Dockerfile build.sh codex.lock codex-home/config.toml make-home-template.sh packages.txt"

# The files the keeper is compiled from. After a build this is compared with what cargo says.
keeper_sources() {
  cd "$root"
  ls Cargo.toml Cargo.lock src/lib.rs src/bin/codex-keeper.rs
  ls src/ignored.rs src/keeper.rs src/path.rs
  find src/ignored src/keeper src/path -name '*.rs' ! -path 'src/keeper/client*' 2>/dev/null || true
}

host_certificates() {
  find /usr/local/share/ca-certificates -name '*.crt' 2>/dev/null | sort || true
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

inputs=$(
  {
    # shellcheck disable=SC2086 # a list of names without blanks
    cd "$here" && sha256 $image_files
    cd "$root" && keeper_sources | sort -u | while read -r file; do sha256 "$file"; done
    host_certificates | while read -r file; do sha256 "$file"; done
    echo "$platform"
  } | sha256 | cut -c1-16
)
if [ "$only" = inputs ]; then
  echo "$inputs"
  exit 0
fi

label() { "$docker" image inspect --format "{{index .Config.Labels \"mcp-codex-orchestrator.$2\"}}" "$1" 2>/dev/null; }

if [ "$only" != stage ]; then
  command -v "$docker" >/dev/null || die "there is no docker command; install Docker, or run \`make engine\`"
  "$docker" version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
    die "no container engine answers; start Docker, or run \`make engine\`"
fi

is_fresh() { [ "$(label "$image" inputs)" = "$inputs" ]; }
if $if_needed && ! $force && [ -z "$only" ]; then
  if is_fresh; then
    say "$image is up to date (inputs $inputs)"
    exit 0
  fi
  if "$docker" image inspect "$image" >/dev/null 2>&1; then
    say "$image is old (made from other inputs than $inputs)"
  else
    say "$image is missing"
  fi
fi

mkdir -p "$cache"
# Two builds at once would share the context.
if command -v flock >/dev/null; then
  exec 9>"$cache/lock"
  flock -n 9 || { say "another build is running; waiting for it"; flock 9; }
  if $if_needed && ! $force && [ -z "$only" ] && is_fresh; then
    say "$image is up to date now (inputs $inputs)"
    exit 0
  fi
fi
started=$SECONDS

# What is missing on this machine, from the distribution, where we may.
install_package() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $* with apt-get"
    {
      apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    } </dev/null >"$cache/apt.log" 2>&1 || {
      tail -n 20 "$cache/apt.log" >&2
      die "apt-get could not install $*; its last words are above, all of them in $cache/apt.log"
    }
  else
    die "$1 is needed and not installed; install it with your system's package manager"
  fi
}

# --- The keeper ---------------------------------------------------------------------------------

build_keeper() {
  [ "$(uname -s)" = Linux ] || die "the keeper is a Linux program and this is $(uname -s): build it on Linux and give it with --keeper FILE"
  command -v cargo >/dev/null || die "cargo is needed to build the keeper; install Rust"
  local target
  target=$(uname -m)-unknown-linux-gnu
  say "building the keeper (static, $target)"
  (cd "$root" && RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --release \
    --no-default-features --bin codex-keeper --target "$target" >&2)
  local dir
  dir=$(cd "$root" && cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  keeper=$dir/$target/release/codex-keeper
  # If the keeper came to be made from a file that is not hashed, an old image would pass for fresh.
  local unknown
  unknown=$(tr ' ' '\n' <"$keeper.d" | sed -n "s|^$root/||p" | grep '^src/.*\.rs$' | sort -u |
    comm -23 - <(keeper_sources | sort -u) | grep -v '^src/keeper/client' || true)
  [ -z "$unknown" ] || die "keeper_sources in docker/build.sh lacks: $unknown"
}

[ -n "$keeper" ] || build_keeper
[ -f "$keeper" ] || die "there is no keeper at $keeper"

# --- Codex --------------------------------------------------------------------------------------

tarball=$cache/codex-$version-$platform.tgz

tarball_integrity() {
  if command -v openssl >/dev/null; then
    echo "sha512-$(openssl dgst -sha512 -binary "$tarball" | openssl base64 -A)"
  else
    echo "sha512-$(sha512sum "$tarball" | cut -d' ' -f1 | xxd -r -p | base64 -w0)"
  fi
}

command -v openssl >/dev/null || command -v xxd >/dev/null || install_package openssl
if [ ! -f "$tarball" ]; then
  command -v npm >/dev/null || install_package npm
  say "fetching Codex $version for $platform with npm pack"
  fetched=$(mktemp -d "$cache/fetch.XXXXXX")
  npm pack --silent --pack-destination "$fetched" "@openai/codex@$version-$platform" >/dev/null ||
    { rm -rf "$fetched"; die "npm could not fetch @openai/codex@$version-$platform; see its words above"; }
  mv "$fetched"/*.tgz "$tarball"
  rmdir "$fetched"
fi
found=$(tarball_integrity)
if [ "$found" != "$integrity" ]; then
  mv "$tarball" "$tarball.refused"
  die "the Codex tarball is not the one that docker/codex.lock pins (it has $found, the lock has $integrity); it was moved to $tarball.refused and nothing was built"
fi
say "Codex $version for $platform: checksum verified"

# --- The context --------------------------------------------------------------------------------

context=$cache/context
rm -rf "$context"
mkdir -p "$context/codex" "$context/codex-home" "$context/certificates"
# Voice is for the desktop: 55 MB that neither exec nor app-server opens.
tar -xzf "$tarball" -C "$context/codex" --strip-components=3 \
  --exclude="package/vendor/$triple/codex-resources/voice" "package/vendor/$triple"
for part in bin/codex bin/codex-code-mode-host codex-path/rg codex-package.json; do
  [ -e "$context/codex/$part" ] || die "the Codex tarball has no $part; its layout is another than version 0.169.0 had"
done
chmod -R u=rwX,go=rX "$context/codex"
for file in $image_files; do
  [ "$file" = build.sh ] || cp "$here/$file" "$context/$file"
done
touch "$context/certificates/.keep"
host_certificates | while read -r file; do cp "$file" "$context/certificates/"; done
install -m 0755 "$keeper" "$context/codex-keeper"
sed -i.orig -e "s/^ARG PROTOCOL=.*/ARG PROTOCOL=$protocol/" -e "s/^ARG CODEX_VERSION=.*/ARG CODEX_VERSION=$version/" \
  -e "s/^ARG INPUTS=.*/ARG INPUTS=$inputs/" "$context/Dockerfile"
rm "$context/Dockerfile.orig"
if [ "$only" = stage ]; then
  say "the build context is in $context"
  exit 0
fi

# --- The base -----------------------------------------------------------------------------------

packages=$(grep -v '^#' "$here/packages.txt" | paste -sd, -)
bootstrapped=codex-runner-base:$(echo "$suite $(uname -m) $packages" | sha256 | cut -c1-12)
have() { "$docker" image inspect "$1" >/dev/null 2>&1; }

bootstrap() {
  [ "$(uname -s)" = Linux ] || die "a base can be bootstrapped only on Linux; give one with --base IMAGE"
  command -v mmdebstrap >/dev/null || install_package mmdebstrap
  say "bootstrapping Debian $suite as $bootstrapped (a minute or two)"
  local tar=$cache/base.tar
  rm -f "$tar"
  mmdebstrap --quiet --variant=essential --include="$packages" "$suite" "$tar" </dev/null >&2 ||
    { rm -f "$tar"; die "mmdebstrap could not make a Debian $suite; see its words above"; }
  "$docker" import --change 'CMD ["bash"]' "$tar" "$bootstrapped" >/dev/null ||
    { rm -f "$tar"; die "the engine could not import the Debian that was made; see its words above"; }
  rm -f "$tar"
}

case $base in
  auto)
    if have "$public_base"; then
      base=$public_base
    elif have "$bootstrapped"; then
      base=$bootstrapped
    else
      say "asking for $public_base"
      if within "$pull_limit" "$docker" pull --quiet "$public_base" </dev/null >/dev/null 2>&1; then
        base=$public_base
      else
        say "no container registry gives $public_base"
        bootstrap
        base=$bootstrapped
      fi
    fi
    ;;
  public)
    have "$public_base" || "$docker" pull "$public_base" >&2 || die "no container registry gives $public_base; use --base bootstrap"
    base=$public_base
    ;;
  bootstrap)
    bootstrap
    base=$bootstrapped
    ;;
  *) have "$base" || die "there is no image $base to build on" ;;
esac

# --- The image ----------------------------------------------------------------------------------

if [ "$builder" = auto ]; then
  builder=legacy
  ! "$docker" buildx version >/dev/null 2>&1 || builder=buildkit
fi
arguments=(--tag "$image" --build-arg "BASE=$base" --file "$context/Dockerfile")
# What was bootstrapped holds everything, and that no step needs the network is then certain.
[ "$base" != "$bootstrapped" ] || arguments+=(--network none)
! $force || arguments+=(--no-cache)
say "building $image on $base with the $builder builder"
old=$("$docker" image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
log=$cache/build.log
if ! DOCKER_BUILDKIT=$([ "$builder" = buildkit ] && echo 1 || echo 0) \
  "$docker" build "${arguments[@]}" "$context" </dev/null >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  die "the build failed; the whole of its output is in $log"
fi
rm -rf "$context/codex"

# --- Does it work -------------------------------------------------------------------------------

told=$("$docker" run --rm --network none "$image" codex --version </dev/null) || die "Codex does not start in $image"
[ "$told" = "codex-cli $version" ] || die "$image says \"$told\" instead of Codex $version"
"$docker" run --rm --network none --user 0 "$image" sh -euc '
  test -x /usr/local/bin/codex-keeper
  test -s /opt/codex/home-template/config.toml
  test -x /opt/codex/bin/codex-code-mode-host
  ! readelf -l /usr/local/bin/codex-keeper 2>/dev/null | grep INTERP
' </dev/null || die "$image lacks a static keeper, the template or a part of Codex"
is_fresh || die "$image does not carry the label of its inputs"
# What was built before would only take space; the engine refuses where something still uses it. It
# stays where it has another name: by its id the engine would remove that one, too.
new=$("$docker" image inspect --format '{{.Id}}' "$image")
names=$("$docker" image inspect --format '{{len .RepoTags}}' "$old" 2>/dev/null || true)
[ -z "$old" ] || [ "$old" = "$new" ] || [ "$names" != 0 ] || "$docker" image rm "$old" >/dev/null 2>&1 || true
size=$("$docker" image inspect --format '{{.Size}}' "$image")
say "$image is ready: Codex $version, protocol $protocol, $((size / 1000000)) MB, $((SECONDS - started)) s"
