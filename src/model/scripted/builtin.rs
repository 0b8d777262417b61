//! The scripts that the demo and the tests share.

use super::script::{Fault, Scenario, Step, Usage};

/// In the order in which they are tried. The faults are asked for by a word in brackets, which no
/// prompt has by chance.
pub(super) fn scenarios() -> Vec<Scenario> {
    let fault = |fault: Fault| vec![Step::Fault(fault)];
    let status = |status| fault(Fault { status: Some(status), ..Fault::default() });
    let all: Vec<(&str, Vec<Step>)> = vec![
        ("[stall]", fault(Fault { stall: true, ..Fault::default() })),
        ("[hang]", fault(Fault { hang: true, ..Fault::default() })),
        ("[drop]", fault(Fault { drop: true, ..Fault::default() })),
        ("[quota]", fault(Fault { failed: Some("insufficient_quota".into()), ..Fault::default() })),
        (
            "[context]",
            fault(Fault { failed: Some("context_length_exceeded".into()), ..Fault::default() }),
        ),
        ("[400]", status(400)),
        ("[401]", status(401)),
        ("[403]", status(403)),
        ("[404]", status(404)),
        ("[429]", status(429)),
        ("[500]", status(500)),
        ("[slow]", vec![Step::Slow(200), Step::Say("One word after the other.".into())]),
        ("hello.py", hello()),
    ];
    all.into_iter()
        .map(|(matches, steps)| Scenario {
            matches: matches.into(),
            steps,
            usage: Usage::default(),
        })
        .collect()
}

/// "Create a hello.py file that prints 'Hello, World!'"
fn hello() -> Vec<Step> {
    let patch = "*** Begin Patch\n*** Add File: hello.py\n+print('Hello, World!')\n*** End Patch\n";
    vec![
        Step::Reason("A file with one line; I look at what is there first.".into()),
        Step::Say("I will look at the workspace and then create hello.py.".into()),
        Step::run("ls -A"),
        Step::Patch(patch.into()),
        Step::run("python3 hello.py"),
        Step::Say("Created hello.py; it prints \"Hello, World!\".".into()),
    ]
}
