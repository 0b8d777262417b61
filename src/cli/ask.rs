//! Questions of mode `ask` on the terminal.

use std::io::{BufRead, IsTerminal};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};

use super::out;
use crate::job::ask::{Asker, Question, Reply};

/// Asks on stderr and reads stdin.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Lines that were typed; `None` where nobody can type any.
    lines: Option<Mutex<mpsc::UnboundedReceiver<String>>>,
}

impl Terminal {
    /// `asks`: whether there will be questions. The lines of stdin are read from then on, unless it
    /// holds the prompt.
    pub(super) fn new(asks: bool, prompt_is_stdin: bool) -> Self {
        let there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !asks || prompt_is_stdin || !there {
            return Self { lines: None };
        }
        let (sender, lines) = mpsc::unbounded_channel();
        // A read of a terminal cannot be ended; the thread ends with the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines: Some(Mutex::new(lines)) }
    }
}

impl Asker for Terminal {
    fn refusal(&self) -> Option<String> {
        let none = "stdin and stderr are no terminal, or the prompt is read from stdin";
        self.lines.is_none().then(|| none.to_owned())
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            let Some(lines) = &self.lines else { return Reply::Decline };
            let mut lines = lines.lock().await;
            // What was typed before the question was seen is no answer to it.
            while lines.try_recv().is_ok() {}
            out::note(&format!("\n{}\n\n[a]ccept, [d]ecline or [s]top?", question.message));
            loop {
                let Some(line) = lines.recv().await else {
                    return Reply::Nonsense("stdin has ended".to_owned());
                };
                match decide(&line) {
                    Some(reply) => return reply,
                    None => out::note("[a]ccept, [d]ecline or [s]top?"),
                }
            }
        })
    }
}

fn decide(line: &str) -> Option<Reply> {
    match line.trim().to_lowercase().as_str() {
        "a" | "accept" => Some(Reply::Accept),
        "d" | "decline" => Some(Reply::Decline),
        "s" | "stop" => Some(Reply::Stop),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_word_or_its_letter_is_an_answer() {
        for (line, want) in [
            ("a", Some(Reply::Accept)),
            (" Accept \r", Some(Reply::Accept)),
            ("d", Some(Reply::Decline)),
            ("stop", Some(Reply::Stop)),
            ("", None),
            ("y", None),
            ("accept all", None),
        ] {
            assert_eq!(decide(line), want, "{line:?}");
        }
    }
}
