//! What the engine itself says, asked through its own client.

use std::process::Command;
use std::sync::OnceLock;

/// What the client says of these arguments.
pub(crate) fn docker(arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new("docker").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// The image under test.
pub(crate) fn image() -> String {
    std::env::var("CODEX_IMAGE").unwrap_or_else(|_| "codex-runner:latest".to_owned())
}

/// Whether an engine answers and has the image.
pub(crate) fn usable() -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    USABLE
        .get_or_init(|| docker(&["image", "inspect", &image(), "--format", "{{.Id}}"]).map(|_| ()))
        .clone()
}

/// Containers in any state whose owner is the process `pid`.
pub(crate) fn containers_of(pid: u32) -> Vec<String> {
    let format = "{{.ID}} {{.State}} {{.Label \"mcp-codex-orchestrator.owner\"}}";
    let listed =
        docker(&["ps", "-a", "--filter", "label=mcp-codex-orchestrator.owner", "--format", format])
            .unwrap();
    listed
        .lines()
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|owner| is_of(owner, pid)))
        .map(str::to_owned)
        .collect()
}

/// What the engine says of a container, in this format.
pub(crate) fn inspect(id: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, id]).unwrap().trim().to_owned()
}

/// The address of this machine on the engine's default network.
pub(crate) fn bridge_gateway() -> std::net::IpAddr {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let addresses = docker(&["network", "inspect", "bridge", "--format", format]).unwrap();
    addresses.split_whitespace().find_map(|text| text.parse().ok()).unwrap()
}

/// Whether a label of an owner (machine, boot, pid, start, number) names the process `pid`.
fn is_of(owner: &str, pid: u32) -> bool {
    owner.split('-').nth(2) == Some(&pid.to_string())
}

/// An image that a test made; removed with it.
pub(crate) struct Image(&'static str);

impl Image {
    /// Builds an image from a Dockerfile without a context.
    pub(crate) fn build(name: &'static str, dockerfile: &str) -> Self {
        Self::made(name, &format!("docker build -q -t {name} - <<'END'\n{dockerfile}\nEND"))
    }

    /// Builds the image under test with the Rust that these tests are built with, at `/opt/rust`.
    pub(crate) fn with_rust(name: &'static str) -> Self {
        let dockerfile =
            format!("FROM {}\nCOPY bin/ /opt/rust/bin/\nCOPY lib/ /opt/rust/lib/", image());
        Self::made(
            name,
            &format!(
                "set -eu; rust=$(rustc --print sysroot); host=$(rustc -vV | sed -n 's/^host: //p')
                 file=$(mktemp -d); trap 'rm -rf $file' EXIT
                 echo '{dockerfile}' > $file/Dockerfile; cd $rust
                 tar -cf - -C $file Dockerfile -C $rust bin/cargo bin/rustc lib/lib* \
                   lib/rustlib/$host | docker build -q -t {name} -"
            ),
        )
    }

    /// Makes an empty image, with a change such as a label.
    pub(crate) fn empty(name: &'static str, change: &str) -> Self {
        let tar = "tar -cf - --files-from /dev/null";
        Self::made(name, &format!("{tar} | docker import --change '{change}' - {name}"))
    }

    fn made(name: &'static str, command: &str) -> Self {
        let mut shell = Command::new("sh");
        let made = shell.args(["-c", command]).env("DOCKER_BUILDKIT", "0").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = docker(&["image", "rm", "-f", self.0]);
    }
}

/// Volumes of containers whose owner is the process `pid`.
pub(crate) fn volumes_of(pid: u32) -> Vec<String> {
    let format = "{{range .Mounts}}{{.Name}} {{end}}";
    containers_of(pid)
        .iter()
        .filter_map(|line| line.split(' ').next())
        // It may be gone by now.
        .filter_map(|id| docker(&["inspect", "--format", format, id]).ok())
        .flat_map(|names| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Which of these volumes the engine still has.
pub(crate) fn still_there(volumes: &[String]) -> Vec<String> {
    let all = docker(&["volume", "ls", "-q"]).unwrap();
    volumes.iter().filter(|name| all.lines().any(|one| one == **name)).cloned().collect()
}
