//! Whether there is an engine to test with.

/// The image under test.
pub(crate) fn image() -> String {
    std::env::var("CODEX_IMAGE").unwrap_or_else(|_| "codex-runner:latest".to_owned())
}

/// Whether the tests here can run. `false` once the reason is printed; a panic if the suite must not
/// leave anything out.
pub(crate) fn engine_is_there() -> bool {
    let answers = std::process::Command::new("docker")
        .args(["image", "inspect", &image()])
        .output()
        .is_ok_and(|output| output.status.success());
    if !answers {
        let required = std::env::var("CODEX_TESTS_REQUIRE_ENGINE").is_ok_and(|value| value == "1");
        assert!(!required, "no engine with the image {} answers", image());
        println!("left out: no engine with the image {} answers", image());
    }
    answers
}
