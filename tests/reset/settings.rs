//! What changes how the next program runs.

use crate::harness::{Armed, Failure, engine_is_there};

/// How a shell finds its surroundings.
const TELL: &str = "umask; ulimit -a; ulimit -Ha; nice; env | sort; pwd; id; \
    cat /proc/self/oom_score_adj /proc/self/coredump_filter /proc/self/timerslack_ns; \
    grep -E 'Sig|Cpus_allowed_list|Seccomp:|NoNewPrivs|Cap' /proc/self/status; \
    chrt -p $$ | sed 's/[0-9]*.s / /'; ionice -p $$; ls -l /proc/self/fd | awk '{ print $9 }'; \
    cat /proc/self/personality; type -a git python3 bash; bash -lic 'alias; type git' 2>/dev/null; \
    git config --global -l; cat ~/.codex/config.toml; find ~/.codex | sort";

#[tokio::test(flavor = "multi_thread")]
async fn the_next_program_starts_as_the_first_one_did() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut armed = Armed::start(false).await;
    let first = armed.must(TELL).await;
    armed.reset().await?;
    must_be_same(&armed.must(TELL).await, &first);
    armed.reset().await?;
    let said = armed
        .must(
            "mkdir -p ~/.local/bin ~/.config/git ~/.codex/more
             printf '#!/bin/sh\\necho evil' > ~/.local/bin/git; chmod +x ~/.local/bin/git
             for f in bash python3; do cp ~/.local/bin/git ~/.local/bin/$f; done
             for f in ~/.bashrc ~/.profile ~/.bash_profile ~/.bash_login ~/.inputrc ~/.zshrc; do echo 'alias ls=evil' > $f; done
             echo '[core]\n hooksPath = /tmp' > ~/.gitconfig; cp ~/.gitconfig ~/.config/git/config
             echo 'model = \"evil\"' > ~/.codex/config.toml; echo x > ~/.codex/auth.json; echo x > ~/.codex/AGENTS.md
             rm -f ~/.codex/*.sqlite*; ln -s /tmp ~/.codex/sessions
             umask 000; ulimit -n 10 -c 0; renice 19 $$ >/dev/null; ionice -c 3 -p $$
             chrt -i -p 0 $$; taskset -p 1 $$ >/dev/null; trap '' TERM; type -a git",
        )
        .await;
    assert!(said.contains("/home/codex/.local/bin/git"), "{said}");
    armed.reset().await?;
    armed.must_be_as_armed("settings");
    must_be_same(&armed.must(TELL).await, &first);
    Ok(())
}

fn must_be_same(now: &str, first: &str) {
    for (now, first) in now.lines().zip(first.lines()) {
        assert_eq!(now, first);
    }
    assert_eq!(now.lines().count(), first.lines().count());
}
