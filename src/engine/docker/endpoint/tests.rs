//! Tests of finding the endpoint.

use super::*;

fn find(variables: &[(&str, &str)]) -> Result<Endpoint, EngineError> {
    let lookup = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    Endpoint::find(&|name| lookup(name).filter(|value| !value.is_empty()), &Host { uid: 1234 })
}

fn sentence(variables: &[(&str, &str)]) -> String {
    match find(variables) {
        Err(EngineError::Unsupported(sentence)) => sentence,
        other => panic!("{other:?}"),
    }
}

#[test]
fn docker_host_decides() {
    let endpoint = find(&[("DOCKER_HOST", "unix:///x/y.sock"), ("DOCKER_CONTEXT", "z")]).unwrap();
    assert_eq!(endpoint.addresses(), [Address::Unix("/x/y.sock".into())]);
    let endpoint = find(&[("DOCKER_HOST", "tcp://10.0.0.1:2375")]).unwrap();
    assert_eq!(endpoint.addresses(), [Address::Tcp("10.0.0.1:2375".into())]);
    let endpoint = find(&[("DOCKER_HOST", "tcp://[::1]")]).unwrap();
    assert_eq!(endpoint.addresses(), [Address::Tcp("[::1]:2375".into())]);
}

#[test]
fn what_cannot_be_used_yet_gets_a_sentence_of_its_own() {
    for (variables, words) in [
        (vec![("DOCKER_HOST", "ssh://me@there")], "over ssh are not supported yet"),
        (vec![("DOCKER_HOST", "https://there:2376")], "TLS to the engine is not supported yet"),
        (
            vec![("DOCKER_HOST", "tcp://there:2376"), ("DOCKER_TLS_VERIFY", "1")],
            "DOCKER_TLS_VERIFY is set, but TLS",
        ),
        (
            vec![("DOCKER_HOST", "tcp://there:2376"), ("DOCKER_CERT_PATH", "/certs")],
            "DOCKER_CERT_PATH is set, but TLS",
        ),
        (vec![("DOCKER_HOST", "npipe:////./pipe/x")], "npipe:// is not supported"),
        (vec![("DOCKER_HOST", "/var/run/docker.sock")], "which is no address"),
        (vec![("DOCKER_HOST", "unix://relative.sock")], "must be absolute"),
        (vec![("DOCKER_HOST", "tcp://")], "use tcp://host:port"),
        (vec![("DOCKER_HOST", "tcp://:2375")], "use tcp://host:port"),
        (vec![("DOCKER_HOST", "tcp://h:99999")], "use tcp://host:port"),
        (vec![("DOCKER_CONTEXT", "nowhere")], "the Docker context nowhere"),
    ] {
        let sentence = sentence(&variables);
        assert!(sentence.contains(words), "{variables:?}: {sentence}");
    }
}

#[test]
fn tls_variables_do_not_matter_to_a_unix_socket() {
    let variables = [("DOCKER_HOST", "unix:///x"), ("DOCKER_CERT_PATH", "/certs")];
    assert!(find(&variables).is_ok());
}

#[test]
fn without_variables_every_usual_socket_is_tried_once() {
    let endpoint =
        find(&[("HOME", "/home/me"), ("XDG_RUNTIME_DIR", "/run/user/1234"), ("DOCKER_HOST", "")])
            .unwrap();
    let expected = [
        "/var/run/docker.sock",
        "/run/user/1234/docker.sock",
        "/home/me/.docker/run/docker.sock",
        "/home/me/.docker/desktop/docker.sock",
        "/run/user/1234/podman/podman.sock",
        "/run/podman/podman.sock",
    ];
    assert_eq!(endpoint.addresses(), expected.map(|path| Address::Unix(path.into())));
    let bare = find(&[]).unwrap();
    let expected = [
        "/var/run/docker.sock",
        "/run/user/1234/docker.sock",
        "/run/user/1234/podman/podman.sock",
        "/run/podman/podman.sock",
    ];
    assert_eq!(bare.addresses(), expected.map(|path| Address::Unix(path.into())));
}

/// A Docker configuration with one context.
fn configuration(name: &str, host: &str, current: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("contexts/meta/0123abcd");
    std::fs::create_dir_all(&folder).unwrap();
    let meta = serde_json::json!({
        "Name": name,
        "Metadata": {"Description": "d"},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": false}},
    });
    std::fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
    if current {
        let config = serde_json::json!({"auths": {}, "currentContext": name});
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    }
    directory
}

#[test]
fn a_context_is_read_from_the_docker_configuration() {
    let directory = configuration("colima", "unix:///home/me/.colima/docker.sock", true);
    let path = directory.path().to_str().unwrap();
    let expected = [Address::Unix("/home/me/.colima/docker.sock".into())];
    let endpoint = find(&[("DOCKER_CONFIG", path)]).unwrap();
    assert_eq!(endpoint.addresses(), expected);
    assert_eq!(endpoint.origin(), &Origin::Context("colima".into()));
    let chosen = find(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "default")]).unwrap();
    assert_eq!(chosen.origin(), &Origin::Usual);
}

#[test]
fn a_context_over_ssh_or_tls_says_which_context_it_is() {
    let directory = configuration("far", "ssh://me@far", false);
    let path = directory.path().to_str().unwrap();
    let text = sentence(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "far")]);
    assert!(text.contains("the Docker context far") && text.contains("over ssh"), "{text}");

    let directory = configuration("safe", "tcp://far:2376", false);
    std::fs::create_dir_all(directory.path().join("contexts/tls/0123abcd/docker")).unwrap();
    let path = directory.path().to_str().unwrap();
    let text = sentence(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "safe")]);
    assert!(text.contains("the Docker context safe") && text.contains("TLS"), "{text}");
}
