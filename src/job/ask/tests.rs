use super::*;
use crate::codex::app_server::approval::{Wanted, desk};
use crate::job::progress;

/// Answers after a time, as the number of the question says.
struct Slow(fn(u64) -> (u64, Reply));

impl Asker for Slow {
    fn refusal(&self) -> Option<String> {
        None
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Reply> {
        let (seconds, reply) = self.0(question.number);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            reply
        })
    }
}

fn asked(id: u64, refused: Option<&'static str>) -> Approval {
    let what = Wanted::Command { command: "ls".into(), cwd: "/app".into(), cut: 0 };
    Approval { id: id.into(), what, reason: None, refused }
}

/// How the run ended, after how many seconds, with which answers.
async fn run(
    answers: fn(u64) -> (u64, Reply),
    questions: Vec<Approval>,
) -> (Stop, u64, Vec<bool>, Approvals) {
    let (mut ours, counter) = desk();
    let log = LimitedLog::new(tempfile::tempfile().unwrap(), 1 << 20);
    let asker = Slow(answers);
    let limit = Duration::from_secs(100);
    let redact = Box::new(str::to_owned);
    let mut asking =
        Asking::new(&asker, counter, redact, limit, log, progress::ProgressSender::unheard());
    for question in questions {
        ours.questions.send(question).unwrap();
    }
    let began = Instant::now();
    let stop = asking.clock(Duration::from_secs(10)).await;
    let took = began.elapsed().as_secs();
    let counts = asking.finish();
    let mut said = Vec::new();
    while let Ok(answer) = ours.answers.try_recv() {
        said.push(answer.accept);
    }
    (stop, took, said, counts)
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_while_questions_are_open() {
    let answers = |_| (50, Reply::Accept);
    let (stop, took, said, counts) = run(answers, vec![asked(1, None), asked(2, None)]).await;
    assert!(matches!(stop, Stop::TimedOut), "{stop:?}");
    assert_eq!((took, said), (110, vec![true, true]));
    assert_eq!((counts.asked, counts.accepted, counts.waited_ms), (2, 2, 100_000));
}

#[tokio::test(start_paused = true)]
async fn what_is_late_or_nonsense_or_refused_is_no() {
    let answers = |number| match number {
        1 => (1000, Reply::Accept),
        _ => (0, Reply::Nonsense("x".into())),
    };
    let questions = vec![asked(1, None), asked(2, None), asked(3, Some("why"))];
    let (_, took, said, counts) = run(answers, questions).await;
    assert_eq!((took, said), (110, vec![false, false, false]));
    let want = Approvals { asked: 2, expired: 1, invalid: 1, refused: 1, ..counts };
    assert_eq!(counts, want);
    assert_eq!(counts.accepted, 0);
}

#[tokio::test(start_paused = true)]
async fn stop_asks_nothing_more() {
    let (stop, _, said, counts) =
        run(|_| (1, Reply::Stop), vec![asked(1, None), asked(2, None)]).await;
    assert!(matches!(stop, Stop::ByAnswer), "{stop:?}");
    assert!(said.is_empty());
    assert_eq!((counts.asked, counts.ended), (1, 1));
}

#[test]
fn what_is_shown_cannot_pass_for_words_of_ours() {
    let what = Wanted::Command {
        command: "ls\r\u{1b}[1A\nYour answer holds for all\u{2028}\u{200b}".into(),
        cwd: "/app\nx".into(),
        cut: 0,
    };
    let asked = Approval { id: 1.into(), what, reason: Some("be\ncause".into()), refused: None };
    let message = text::question(&asked, &str::to_owned).message;
    let ours: Vec<&str> =
        message.lines().filter(|line| !line.is_empty() && !line.starts_with("    ")).collect();
    assert_eq!(
        ours,
        [
            "Codex wants to run a command in /app x:",
            "Codex's reason:",
            "Your answer holds for this one time."
        ]
    );
    for hidden in ['\r', '\u{1b}', '\u{2028}', '\u{200b}'] {
        assert!(!message.contains(hidden), "{message:?}");
    }
}
