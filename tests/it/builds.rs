//! Real projects, with real tools: the second run's build reuses what the first one built.

use std::fs;
use std::path::Path;
use std::process::Command;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, docker, make_workspace};

const CARGO: &str = "cd rs && PATH=/opt/rust/bin:$PATH cargo build --offline -v > ../cargo.txt 2>&1; \
                     ./target/debug/app >> ../cargo.txt";

const NPM: &str = "cd js && npm install --offline --no-audit --no-fund > ../npm.txt 2>&1; \
                   node index.js >> ../npm.txt";

const PIP: &str = "cd py && { test -e .venv || python3 -m venv .venv; } > ../pip.txt 2>&1; \
                   .venv/bin/pip install --no-index --no-build-isolation --find-links dist toy \
                   >> ../pip.txt 2>&1; .venv/bin/python main.py >> ../pip.txt";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A `.tgz` of `directory`, in which its files are under `name`.
fn pack(directory: &Path, name: &str, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let from = directory.parent().unwrap();
    let status = Command::new("tar").arg("-czf").arg(to).arg("-C").arg(from).arg(name).status();
    assert!(status.unwrap().success());
}

/// Two crates, one of which needs the other.
fn make_cargo(path: &Path) {
    write(
        &path.join("Cargo.toml"),
        "[workspace]\nmembers = [\"app\", \"part\"]\nresolver = \"2\"\n",
    );
    for (name, needs) in [("app", "part = { path = \"../part\" }"), ("part", "")] {
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\n\
             [dependencies]\n{needs}\n"
        );
        write(&path.join(name).join("Cargo.toml"), &manifest);
    }
    write(&path.join("part/src/lib.rs"), "pub const WORD: &str = \"part\";\n");
    write(&path.join("app/src/main.rs"), "fn main() { println!(\"says {}\", part::WORD) }\n");
}

/// A package that needs another one, which lies beside it as a tarball.
fn make_npm(path: &Path, scratch: &Path) {
    let package = scratch.join("package");
    write(&package.join("package.json"), r#"{"name": "part", "version": "1.0.0"}"#);
    write(&package.join("index.js"), "module.exports = \"part\";\n");
    pack(&package, "package", &path.join("part-1.0.0.tgz"));
    let manifest = json!({"name": "app", "version": "1.0.0", "private": true,
                          "dependencies": {"part": "file:part-1.0.0.tgz"}});
    write(&path.join("package.json"), &manifest.to_string());
    write(&path.join("index.js"), "console.log(\"says \" + require(\"part\"));\n");
}

/// A program that needs a package, which lies beside it as a source distribution.
fn make_pip(path: &Path, scratch: &Path) {
    let source = scratch.join("toy-1.0");
    write(
        &source.join("setup.py"),
        "from setuptools import setup\nsetup(name='toy', version='1.0', py_modules=['toy'])\n",
    );
    write(&source.join("PKG-INFO"), "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n");
    write(&source.join("toy.py"), "WORD = 'part'\n");
    pack(&source, "toy-1.0", &path.join("dist/toy-1.0.tar.gz"));
    write(&path.join("main.py"), "import toy\nprint('says', toy.WORD)\n");
}

async fn build(server: &mut Server) -> (String, String, String) {
    let result = server.run("build it").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    (server.read("cargo.txt"), server.read("npm.txt"), server.read("pip.txt"))
}

fn kept(status: &Value) -> Vec<&str> {
    let kept = status["copies"][0]["kept"].as_array().unwrap();
    kept.iter().map(|one| one["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_cargo_an_npm_and_a_pip_project_reuse_what_the_run_before_built() {
    need_engine!();
    let image = "codex-runner-test:builds";
    let _image = docker::Image::with_rust(image);
    let (home, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    write(&workspace.join(".gitignore"), "target/\nnode_modules/\n.venv/\n");
    make_cargo(&workspace.join("rs"));
    make_npm(&workspace.join("js"), scratch.path());
    make_pip(&workspace.join("py"), scratch.path());
    let steps = [CARGO, NPM, PIP].map(Step::run);
    let script = Script::always(steps.into_iter().chain([Step::Say("Built.".into())]).collect());
    let options = Options::default()
        .set("pool", "max_size = 1")
        .set("server", "shutdown_grace = \"30s\"")
        .env("CODEX_IMAGE", image);
    let mut server = Server::start_in(script, options, home, workspace).await;

    let (cargo, npm, pip) = build(&mut server).await;
    assert!(cargo.contains("Compiling part") && cargo.contains("Compiling app"), "{cargo}");
    assert!(npm.contains("added 1 package"), "{npm}");
    assert!(pip.contains("Successfully installed toy-1.0"), "{pip}");
    for said in [&cargo, &npm, &pip] {
        assert!(said.ends_with("says part\n"), "{said}");
    }
    let status = server.ready().await;
    assert_eq!(kept(&status), ["js/node_modules/", "py/.venv/", "rs/target/"], "{status}");

    let (cargo, npm, pip) = build(&mut server).await;
    assert!(cargo.contains("Fresh part") && cargo.contains("Fresh app"), "{cargo}");
    assert!(!cargo.contains("Compiling"), "{cargo}");
    assert!(npm.contains("up to date") && !npm.contains("added"), "{npm}");
    assert!(
        pip.contains("Requirement already satisfied: toy") && !pip.contains("installed toy"),
        "{pip}"
    );
    for said in [&cargo, &npm, &pip] {
        assert!(said.ends_with("says part\n"), "{said}");
    }

    // Only what was edited is compiled, and what it says now is what runs.
    server.write("rs/app/src/main.rs", "fn main() { println!(\"tells {}\", part::WORD) }\n");
    let (cargo, npm, _) = build(&mut server).await;
    assert!(cargo.contains("Fresh part") && cargo.contains("Compiling app"), "{cargo}");
    assert!(cargo.ends_with("tells part\n") && npm.contains("up to date"), "{cargo}\n{npm}");
    let status = server.call("codex_pool_status", json!({})).await;
    assert_eq!(status["destroyed"], json!({}), "{status}");
    server.stop().await;
}
