//! The engine's own API over its socket, as bare as can be: the arms that are compared with ours
//! must not pay for a client program or a library.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

/// The API version, which every engine since 2021 speaks.
const VERSION: &str = "v1.41";

/// The usual image.
pub(crate) const IMAGE: &str = "codex-runner:latest";

/// The image that everything is measured with: `CODEX_IMAGE`, or the usual one.
pub(crate) fn image() -> String {
    std::env::var("CODEX_IMAGE").unwrap_or_else(|_| IMAGE.to_owned())
}

/// What an arm can fail with; the benchmark then ends.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
type Body = BoxBody<Bytes, std::io::Error>;

/// One connection, kept open.
#[derive(Debug)]
pub(crate) struct Docker {
    socket: PathBuf,
    sender: Option<SendRequest<Body>>,
}

impl Docker {
    /// The engine that `DOCKER_HOST` names, or the usual one.
    pub(crate) fn find() -> Result<Self, Failed> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let socket = match host.strip_prefix("unix://") {
            Some(path) => path,
            None if host.is_empty() => "/var/run/docker.sock",
            None => return Err("the benchmark needs an engine at a unix socket".into()),
        };
        Ok(Self { socket: socket.into(), sender: None })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Bytes, Failed> {
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        let (response, sender) = self.request(method, path, kind, body).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok(bytes)
    }

    /// Sends a request; gives the answer if it is a good one, and the connection, which is of use
    /// again once the answer was read.
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Body,
    ) -> Result<(Response<Incoming>, SendRequest<Body>), Failed> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let stream = UnixStream::connect(&self.socket).await?;
                let (sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(format!("/{VERSION}{path}"))
            .header("host", "docker")
            .header("content-type", kind)
            .body(body)?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, sender));
        }
        let body = response.into_body().collect().await?.to_bytes();
        Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into())
    }

    /// Streams an archive into the directory `path` of a container.
    pub(crate) async fn put_archive(
        &mut self,
        id: &str,
        path: &str,
        archive: impl AsyncRead + Send + Sync + 'static,
    ) -> Result<(), Failed> {
        let chunks = ReaderStream::with_capacity(archive, 256 << 10).map_ok(Frame::data);
        let body = BodyExt::boxed(StreamBody::new(chunks));
        let put = format!("/containers/{id}/archive?path={path}");
        let (response, sender) = self.request(Method::PUT, &put, "application/x-tar", body).await?;
        response.into_body().collect().await?;
        self.sender = Some(sender);
        Ok(())
    }

    /// Streams the archive of `path` in a container into `out`, and shuts that down.
    pub(crate) async fn get_archive(
        &mut self,
        id: &str,
        path: &str,
        mut out: impl AsyncWrite + Unpin,
    ) -> Result<(), Failed> {
        let get = format!("/containers/{id}/archive?path={path}");
        let nothing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let (response, sender) =
            self.request(Method::GET, &get, "application/json", nothing).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                out.write_all(&bytes).await?;
            }
        }
        out.shutdown().await?;
        self.sender = Some(sender);
        Ok(())
    }

    /// Where the engine keeps what is mounted at `path` of a container.
    pub(crate) async fn mounted(&mut self, id: &str, path: &str) -> Result<PathBuf, Failed> {
        let facts = self.plain(Method::GET, &format!("/containers/{id}/json")).await?;
        let facts: Value = serde_json::from_slice(&facts)?;
        let mounts = facts["Mounts"].as_array().into_iter().flatten();
        let source =
            mounts.filter(|one| one["Destination"] == path).find_map(|one| one["Source"].as_str());
        Ok(source.ok_or_else(|| format!("nothing is mounted at {path}"))?.into())
    }

    async fn json(&mut self, method: Method, path: &str, body: &Value) -> Result<Value, Failed> {
        let bytes = body.to_string().into_bytes().into();
        let answer = self.send(method, path, "application/json", bytes).await?;
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer)? })
    }

    async fn plain(&mut self, method: Method, path: &str) -> Result<Bytes, Failed> {
        self.send(method, path, "application/json", Bytes::new()).await
    }

    /// The image's identifier.
    pub(crate) async fn image_id(&mut self) -> Result<String, Failed> {
        let facts: Value = serde_json::from_slice(
            &self.plain(Method::GET, &format!("/images/{IMAGE}/json")).await?,
        )?;
        let id = facts["Id"].as_str().unwrap_or_default();
        Ok(id.strip_prefix("sha256:").unwrap_or(id).to_owned())
    }

    /// Creates a container; gives its identifier.
    pub(crate) async fn create(&mut self, spec: &Value) -> Result<String, Failed> {
        let answer = self.json(Method::POST, "/containers/create", spec).await?;
        Ok(answer["Id"].as_str().ok_or("a container without an identifier")?.to_owned())
    }

    /// Removes a container with its volumes.
    pub(crate) async fn remove(&mut self, id: &str) -> Result<(), Failed> {
        self.plain(Method::DELETE, &format!("/containers/{id}?force=1&v=1")).await?;
        Ok(())
    }

    /// What the replaced server did for each run: create, start, wait, logs, remove. Gives the exit
    /// code and the logs.
    pub(crate) async fn run_once(&mut self, spec: &Value) -> Result<(i64, Bytes), Failed> {
        let id = self.create(spec).await?;
        self.plain(Method::POST, &format!("/containers/{id}/start")).await?;
        let ended = self.json(Method::POST, &format!("/containers/{id}/wait"), &json!({})).await?;
        let logs =
            self.plain(Method::GET, &format!("/containers/{id}/logs?stdout=1&stderr=1")).await?;
        self.remove(&id).await?;
        Ok((ended["StatusCode"].as_i64().unwrap_or(-1), logs))
    }

    /// Starts a container that only waits; gives its identifier.
    pub(crate) async fn start_idle(&mut self, spec: &Value) -> Result<String, Failed> {
        let id = self.create(spec).await?;
        self.plain(Method::POST, &format!("/containers/{id}/start")).await?;
        Ok(id)
    }

    /// What a pool does that is built from the engine's calls alone: the archive of the workspace
    /// goes to `/app` of the idle container `id`, `exec` runs there, the engine is asked what has
    /// changed, and the archive of `/app` comes back. Gives the exit code and that archive.
    pub(crate) async fn run_in_idle(
        &mut self,
        id: &str,
        archive: Vec<u8>,
        exec: &Value,
    ) -> Result<(i64, Bytes), Failed> {
        let app = format!("/containers/{id}/archive?path=/app");
        self.send(Method::PUT, &app, "application/x-tar", archive.into()).await?;
        let made = self.json(Method::POST, &format!("/containers/{id}/exec"), exec).await?;
        let made = made["Id"].as_str().ok_or("an exec without an identifier")?.to_owned();
        let start = json!({"Detach": false, "Tty": false});
        self.json_bytes(&format!("/exec/{made}/start"), &start).await?;
        let ended = self.plain(Method::GET, &format!("/exec/{made}/json")).await?;
        let ended: Value = serde_json::from_slice(&ended)?;
        self.plain(Method::GET, &format!("/containers/{id}/changes")).await?;
        let archive = self.plain(Method::GET, &app).await?;
        Ok((ended["ExitCode"].as_i64().unwrap_or(-1), archive))
    }

    /// Posts and gives the answer as it comes, such as the output of an exec.
    async fn json_bytes(&mut self, path: &str, body: &Value) -> Result<Bytes, Failed> {
        let bytes = body.to_string().into_bytes().into();
        let answer = self.send(Method::POST, path, "application/json", bytes).await;
        // The engine closes the connection with the end of the output.
        self.sender = None;
        answer
    }

    /// Unpacks `path` of the image below `to`.
    pub(crate) async fn extract(&mut self, path: &str, to: &Path) -> Result<(), Failed> {
        let id = self.create(&json!({"Image": IMAGE})).await?;
        let archive =
            self.plain(Method::GET, &format!("/containers/{id}/archive?path={path}")).await;
        self.remove(&id).await?;
        tar::Archive::new(&archive?[..]).unpack(to)?;
        Ok(())
    }

    /// Makes an image `name` that is ours but for the program at `path`.
    pub(crate) async fn stand_in(
        &mut self,
        name: &str,
        path: &str,
        program: &str,
    ) -> Result<(), Failed> {
        let mut header = tar::Header::new_gnu();
        header.set_size(program.len() as u64);
        header.set_mode(0o755);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, path.trim_start_matches('/'), program.as_bytes())?;
        let archive = archive.into_inner()?;
        let id = self.create(&json!({"Image": IMAGE})).await?;
        let put = format!("/containers/{id}/archive?path=/");
        let made = match self.send(Method::PUT, &put, "application/x-tar", archive.into()).await {
            Ok(_) => {
                let (repo, tag) = name.split_once(':').unwrap_or((name, "latest"));
                let commit = format!("/commit?container={id}&repo={repo}&tag={tag}");
                self.json(Method::POST, &commit, &json!({})).await.map(drop)
            }
            Err(error) => Err(error),
        };
        self.remove(&id).await?;
        made
    }

    /// How many volumes carry a label, as `key=value`.
    pub(crate) async fn volumes(&mut self, label: &str) -> Result<usize, Failed> {
        let filter = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
        let answer = self.plain(Method::GET, &format!("/volumes?filters={filter}")).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer["Volumes"].as_array().map_or(0, Vec::len))
    }

    /// Bytes of the volumes whose label `key` has one of `values`.
    pub(crate) async fn volumes_size(
        &mut self,
        key: &str,
        values: &[String],
    ) -> Result<u64, Failed> {
        let answer: Value = serde_json::from_slice(&self.plain(Method::GET, "/system/df").await?)?;
        let ours = |one: &&Value| {
            let label = one["Labels"][key].as_str();
            label.is_some_and(|label| values.iter().any(|value| value == label))
        };
        let volumes = answer["Volumes"].as_array().into_iter().flatten().filter(ours);
        Ok(volumes.filter_map(|one| one["UsageData"]["Size"].as_u64()).sum())
    }

    /// Removes an image.
    pub(crate) async fn remove_image(&mut self, name: &str) -> Result<(), Failed> {
        self.plain(Method::DELETE, &format!("/images/{name}?force=1")).await?;
        Ok(())
    }
}
