#!/usr/bin/env bash
# Copies Codex out of the image, with the template of its home, for the tests and benchmarks that
# run it on the host: copy-codex.sh FOLDER. Does nothing if the folder has this image's already.
set -euo pipefail
folder=${1:?usage: copy-codex.sh FOLDER}
image=${CODEX_IMAGE:-codex-runner:latest}
id=$(docker image inspect --format '{{.Id}}' "$image")
[ "$(cat "$folder/.image" 2>/dev/null || true)" != "$id" ] || exit 0
container=$(docker create --network none "$image" true)
trap 'docker rm -f -v "$container" >/dev/null' EXIT
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
docker cp -q "$container:/opt/codex" "$folder" 2>/dev/null || docker cp "$container:/opt/codex" "$folder"
echo "$id" > "$folder/.image"
