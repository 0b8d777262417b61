#!/bin/sh
# Makes the template of CODEX_HOME at $1, in the image while it is built: starts Codex's app-server
# with our configuration, without a model and without a network, and keeps what it wrote. What is
# left in CODEX_HOME itself serves a container that someone starts by hand.
set -eu

template=$1
given=/usr/share/codex-runner/codex-home

as_codex() { setpriv --reuid 1000 --regid 1000 --clear-groups -- "$@"; }

as_codex mkdir -p "$CODEX_HOME"
as_codex cp -R "$given/." "$CODEX_HOME"

# It answers `initialize` once it is up, and ends in good order when its stdin closes. The
# databases are ready some time after the answer, so wait until their number rests.
answers=$(mktemp)
chmod 0644 "$answers"
{
  echo '{"id":1,"method":"initialize","params":{"clientInfo":{"name":"image","title":"image","version":"0"}}}'
  echo '{"method":"initialized"}'
  before=-1
  for _ in $(seq 120); do
    sleep 0.5
    now=$(find "$CODEX_HOME" -name '*.sqlite' | wc -l)
    if grep -q '"id":1' "$answers" && [ "$now" -gt 0 ] && [ "$now" -eq "$before" ]; then break; fi
    before=$now
  done
} | (cd /app && as_codex timeout 90 codex app-server --strict-config) >"$answers" 2>&1 || true
grep -q '"id":1,"result"' "$answers" || { echo "Codex did not start:"; cat "$answers"; exit 1; }
rm -f "$answers"

# No journals that every run would have to replay, and nothing that names one machine.
as_codex python3 - "$CODEX_HOME" <<'PY'
import pathlib, sqlite3, sys

databases = sorted(pathlib.Path(sys.argv[1]).glob("*.sqlite"))
if not databases:
    sys.exit("Codex made no databases in its home")
for path in databases:
    database = sqlite3.connect(path)
    busy, *_ = database.execute("pragma wal_checkpoint(truncate)").fetchone()
    ok = database.execute("pragma integrity_check").fetchone()[0]
    database.close()
    if busy or ok != "ok":
        sys.exit(f"{path.name} is not in order: busy={busy} {ok}")
PY
rm -rf "$CODEX_HOME/tmp" "$CODEX_HOME/.tmp" "$CODEX_HOME/installation_id" "$CODEX_HOME"/log
if ls "$CODEX_HOME"/*-wal "$CODEX_HOME"/auth.json 2>/dev/null; then
  echo "the template holds what it must not"
  exit 1
fi

mkdir -p "$template"
cp -a "$CODEX_HOME/." "$template/"
chown -R 0:0 "$template"
chmod -R u=rwX,go=rX "$template"
find "$template" -type f
