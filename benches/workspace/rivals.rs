//! Other ways to bring a tree into a container and back: `tar` through `docker exec`, the engine's
//! archive calls, and `rsync` on the container's volume where the host reaches it. None of them knows
//! what is unchanged but rsync, which goes by size and time and has the host's own disk on both sides.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::{Child, Command};

use super::docker::{Docker, Failed, image};

/// An idle container with a volume at `/app`, as the obvious pool would keep one.
pub(crate) struct Rivals {
    docker: Docker,
    id: String,
    /// Those that were used before.
    left: Vec<String>,
    /// The container's `/app` on the host, or why rsync takes no part.
    pub(crate) volume: Result<PathBuf, String>,
}

impl Rivals {
    pub(crate) async fn start() -> Result<Self, Failed> {
        let docker = Docker::find()?;
        let mut rivals =
            Self { docker, id: String::new(), left: Vec::new(), volume: Err(String::new()) };
        rivals.renew(true).await?;
        Ok(rivals)
    }

    /// Takes another container, with nothing in it. The one before goes at the end, or now if
    /// `at_once` says so: where a disk has no journal, making files after deleting many is slow.
    pub(crate) async fn renew(&mut self, at_once: bool) -> Result<(), Failed> {
        let id = self
            .docker
            .start_idle(&json!({
                "Image": image(),
                // Gone by itself if this program is killed.
                "Cmd": ["sleep", "3600"],
                "User": "1000:1000",
                "Volumes": {"/app": {}},
                "HostConfig": {"AutoRemove": true, "NetworkMode": "none", "Init": true},
            }))
            .await?;
        let before = std::mem::take(&mut self.id);
        if at_once && !before.is_empty() {
            self.docker.remove(&before).await?;
        } else {
            self.left.push(before);
        }
        self.id = id;
        let volume = self.docker.mounted(&self.id, "/app").await?;
        let installed = Command::new("rsync")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await
            .is_ok_and(|status| status.success());
        self.volume = if !installed {
            Err("rsync is not installed here".to_owned())
        } else if std::fs::read_dir(&volume).is_err() {
            Err(format!("{} cannot be reached from here", volume.display()))
        } else {
            Ok(volume)
        };
        Ok(())
    }

    /// Removes the containers that were used.
    pub(crate) async fn end(&mut self) -> Result<(), Failed> {
        self.left.push(std::mem::take(&mut self.id));
        for id in self.left.drain(..).filter(|id| !id.is_empty()) {
            self.docker.remove(&id).await?;
        }
        Ok(())
    }

    /// `tar | docker exec -i tar`.
    pub(crate) async fn exec_in(&self, tree: &Path) -> Result<Duration, Failed> {
        let began = Instant::now();
        let mut pack = pack(tree)?;
        let archive: Stdio = pack.stdout.take().ok_or("tar without stdout")?.try_into()?;
        let mut unpack = Command::new("docker");
        unpack.args(["exec", "-i", &self.id, "tar", "-C", "/app", "-xf", "-"]).stdin(archive);
        done("docker exec tar", unpack.spawn()?).await?;
        done("tar", pack).await?;
        Ok(began.elapsed())
    }

    /// `docker exec tar | tar`, into the empty directory `to`.
    pub(crate) async fn exec_out(&self, to: &Path) -> Result<Duration, Failed> {
        let began = Instant::now();
        let mut pack = Command::new("docker");
        pack.args(["exec", &self.id, "tar", "-C", "/app", "-cf", "-", "."]).stdout(Stdio::piped());
        let mut pack = pack.kill_on_drop(true).spawn()?;
        let archive: Stdio = pack.stdout.take().ok_or("docker without stdout")?.try_into()?;
        done("tar", unpack(to, archive)?).await?;
        done("docker exec tar", pack).await?;
        Ok(began.elapsed())
    }

    /// `PUT /containers/{id}/archive`.
    pub(crate) async fn archive_in(&mut self, tree: &Path) -> Result<Duration, Failed> {
        let began = Instant::now();
        let mut pack = pack(tree)?;
        let archive = pack.stdout.take().ok_or("tar without stdout")?;
        self.docker.put_archive(&self.id, "/app", archive).await?;
        done("tar", pack).await?;
        Ok(began.elapsed())
    }

    /// `GET /containers/{id}/archive`, into the empty directory `to`.
    pub(crate) async fn archive_out(&mut self, to: &Path) -> Result<Duration, Failed> {
        let began = Instant::now();
        let mut unpack = unpack(to, Stdio::piped())?;
        let archive = unpack.stdin.take().ok_or("tar without stdin")?;
        self.docker.get_archive(&self.id, "/app", archive).await?;
        done("tar", unpack).await?;
        Ok(began.elapsed())
    }

    /// rsync into the volume, removals included; `None` if it takes no part.
    pub(crate) async fn rsync_in(&self, tree: &Path) -> Result<Option<Duration>, Failed> {
        let Ok(volume) = &self.volume else { return Ok(None) };
        Ok(Some(rsync(&["--chown=1000:1000".as_ref()], tree, volume).await?))
    }

    /// rsync out of the volume into `to`.
    pub(crate) async fn rsync_out(&self, to: &Path) -> Result<Option<Duration>, Failed> {
        let Ok(volume) = &self.volume else { return Ok(None) };
        Ok(Some(rsync(&[], volume, to).await?))
    }

    /// Writes one more line into files of the tree in the container.
    pub(crate) async fn change(&self, paths: &[&str]) -> Result<(), Failed> {
        use tokio::io::AsyncWriteExt;
        let mut change = Command::new("docker");
        change.args(["exec", "-i", &self.id, "sh", "-c", super::ours::CHANGE]);
        let mut change = change.stdin(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut stdin = change.stdin.take().ok_or("docker without stdin")?;
        let paths: String = paths.iter().flat_map(|path| [path, "\n"]).collect();
        stdin.write_all(paths.as_bytes()).await?;
        drop(stdin);
        done("docker exec sh", change).await
    }
}

fn pack(tree: &Path) -> Result<Child, Failed> {
    let mut pack = Command::new("tar");
    pack.args(["--owner=1000", "--group=1000", "--numeric-owner", "-C"]);
    pack.arg(tree).args(["-cf", "-", "."]).stdout(Stdio::piped());
    Ok(pack.kill_on_drop(true).spawn()?)
}

fn unpack(to: &Path, archive: Stdio) -> Result<Child, Failed> {
    let mut unpack = Command::new("tar");
    unpack.arg("-C").arg(to).args(["-xf", "-"]).stdin(archive);
    Ok(unpack.kill_on_drop(true).spawn()?)
}

async fn rsync(more: &[&OsStr], from: &Path, to: &Path) -> Result<Duration, Failed> {
    let began = Instant::now();
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "--delete"]).args(more).arg(from.join("")).arg(to.join(""));
    done("rsync", rsync.kill_on_drop(true).spawn()?).await?;
    Ok(began.elapsed())
}

async fn done(what: &str, mut child: Child) -> Result<(), Failed> {
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("{what} ended with {status}").into()) }
}
