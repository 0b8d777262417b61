#!/usr/bin/env bash
# Makes the Python environment with the official MCP SDK: setup.sh FOLDER. Installs Python with apt
# where it is missing and that is allowed, and says so.
set -euo pipefail
folder=${1:?usage: setup.sh FOLDER}
here=$(dirname "${BASH_SOURCE[0]}")
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests: python3 with venv is needed; install python3-venv" >&2
    exit 3
  fi
  echo "tests: installing python3-venv with apt-get" >&2
  apt-get update -qq >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
fi
python3 -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
