#!/usr/bin/env bash
# Runs every fuzz target for some seconds each, on the stable toolchain (no sanitizer: the code has no
# unsafe that bytes reach). What is found lies in fuzz/artifacts, and the command to see it again is
# printed; put the input into fuzz/seeds, then mend the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo_fuzz=$1 seconds=$2
"$cargo_fuzz" build -s none
for target in stream archive changes ignored; do
  mkdir -p "fuzz/corpus/$target"
  echo "fuzz: $target, $seconds s" >&2
  "$cargo_fuzz" run -s none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -verbosity=0
done
