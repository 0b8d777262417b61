#!/bin/bash
# Runs in the container, first as root (what the keeper does when it arms), then as uid 1000.
set -uo pipefail
failures=0

check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1 </dev/null); then
    echo "ok   $name"
  else
    echo "FAIL $name: $(tail -n 5 <<<"$output")"
    failures=$((failures + 1))
  fi
}

refuse() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1 </dev/null); then
    echo "FAIL $name went through: $output"
    failures=$((failures + 1))
  else
    echo "ok   $name is refused"
  fi
}

if [ "$(id -u)" = 0 ]; then
  chown 1000:1000 /app /cache /home/codex
  mkdir -p "$CODEX_HOME"
  cp -a /opt/codex/home-template/. "$CODEX_HOME"
  chown -R 1000:1000 "$CODEX_HOME"
  check "root may end uid 1000's processes" bash -c \
    'setpriv --reuid 1000 --regid 1000 --clear-groups sleep 60 & sleep 0.2; kill -9 $!'
  cd /app || exit 1
  setpriv --reuid 1000 --regid 1000 --clear-groups -- bash /check/inside.sh
  exit $((failures + $?))
fi

gcc_builds() {
  printf '#include <stdio.h>\n#include <pthread.h>\nstatic void *f(void *p){return p;}\nint main(void){pthread_t t;pthread_create(&t,0,f,0);pthread_join(t,0);puts("hi");}\n' >a.c
  printf 'all: one two\none: a.c\n\tgcc -O2 -flto -pthread -o $@ $<\ntwo: a.c\n\tg++ -x c++ -pthread -o $@ $<\n' >Makefile
  make -j4 && ./one && ./two
}
python_builds() {
  python3 -m venv /tmp/venv && mkdir -p pkg && printf 'from setuptools import setup\nsetup(name="p", version="1", py_modules=["p"])\n' >pkg/setup.py &&
    echo 'x = 1' >pkg/p.py && /tmp/venv/bin/pip --version && (cd pkg && /tmp/venv/bin/python setup.py --quiet bdist_egg) &&
    /tmp/venv/bin/pip install --quiet --no-index --no-build-isolation --no-use-pep517 ./pkg && /tmp/venv/bin/python -c 'import p; assert p.x == 1' &&
    /tmp/venv/bin/python -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [-1, 2]))'
}
node_builds() {
  mkdir -p lib app && (cd lib && npm init -y && echo 'module.exports = 7' >index.js) && cd app && npm init -y && npm install --offline ../lib &&
    node -e 'if (require("lib") !== 7) process.exit(1); new (require("worker_threads").Worker)("1", {eval: true}); require("os").networkInterfaces(); require("child_process").execSync("true")'
}
git_works() {
  git init -q r && cd r && echo a >a && git add a && git commit -qm one && echo b >a && git diff --exit-code; [ $? = 1 ] &&
    git stash -q && git stash pop -q && git worktree add -q ../r2 && git -c gc.auto=1 gc -q && git log --format=%an%ae | grep -q 'Codex Runnercodex-runner@localhost' && git lfs env
}
archives_work() { tar -cz a.c | tar -tz && tar -cJ a.c | tar -tJ && zip -q a.zip a.c && unzip -t a.zip; }
scripts_run_in() { printf '#!/bin/sh\necho ok\n' >"$1/s" && chmod +x "$1/s" && "$1/s"; }
codex_works() {
  python3 /check/model.py & local model=$!
  for _ in $(seq 50); do (: </dev/tcp/127.0.0.1/8787) 2>/dev/null && break; sleep 0.1; done
  codex exec --strict-config --json --ephemeral --dangerously-bypass-approvals-and-sandbox hello >/tmp/events 2>/tmp/errors </dev/null
  local code=$?
  kill $model
  [ $code = 0 ] && grep -q '"text":"all done"' /tmp/events && ! grep -q 'Code Mode is unavailable' /tmp/events /tmp/errors &&
    [ "$(cat made.txt)" = 'made by codex' ] || { cat /tmp/events /tmp/errors; return 1; }
}
sanitizers() { printf 'int main(void){return 0;}\n' >s.c && gcc -fsanitize=address,undefined s.c -o s && ./s; }
denied() { gcc /check/denied.c -o /tmp/denied && /tmp/denied; }

check "codex --version" codex --version
check "codex exec, with its code mode host" codex_works
check "gcc, g++, make, threads" gcc_builds
check "gcc's sanitizers without the leak check" sanitizers
check "python venv, pip, processes" python_builds
check "node, npm, workers" bash -c "$(declare -f node_builds); node_builds"
check "git, git-lfs" bash -c "$(declare -f git_works); git_works"
check "tar, gzip, xz, zip" archives_work
check "ripgrep" rg -q main a.c
check "bash, curl, jq" bash -c 'curl --version && echo {} | jq .'
for place in /app /cache /home/codex /tmp /dev/shm; do
  check "scripts run in $place" scripts_run_in "$place"
done
check "/var/tmp is /tmp" bash -c 'touch /var/tmp/x && test -e /tmp/x'
check "the root file system is read-only" bash -c '! touch /usr/x && ! touch /etc/x && ! touch /opt/codex/x'
check "no capability and no new privileges" bash -c 'grep -q "^CapEff:.0000000000000000" /proc/self/status && grep -q "^NoNewPrivs:.1" /proc/self/status && grep -q "^Seccomp:.2" /proc/self/status'
refuse "a user namespace" unshare -Ur true
refuse "a mount" mount -t tmpfs none /tmp
refuse "su" su -c true
if output=$(denied); then
  echo "ok   $(grep -c ^ok <<<"$output") system calls are refused"
else
  grep -v ^ok <<<"$output"
  failures=$((failures + 1))
fi
exit $failures
