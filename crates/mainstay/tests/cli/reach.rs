use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;

use super::*;

#[test]
fn a_server_that_is_not_there_is_told_with_the_way_out() {
    let mut server = server();
    server.stop().unwrap();
    let said = run(&server, "get pods").failed(5);
    assert!(
        said.contains("cannot reach the server at https://127.0.0.1:") && said.contains("mainstay serve"),
        "{said}"
    );
    let mut nowhere = Command::new(EXE);
    nowhere.args(["get", "pods"]).env_clear().env("HOME", server.scratch()).env("MAINSTAY_DATA_DIR", server.data_dir());
    let said = finish(nowhere, "").failed(5);
    assert!(said.contains("no Mainstay server is running here") && said.contains("mainstay serve"), "{said}");
    run(&server, "get pods --kubeconfig /none").failed(2);
    assert_eq!(run(&server, "version --client").ok(), format!("client     {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_local_server_is_found_and_a_strangers_is_refused() {
    let server = server();
    let mut local = Command::new(EXE);
    local.args(["version"]).env_clear().env("MAINSTAY_DATA_DIR", server.data_dir());
    let said = finish(local, "").ok();
    assert!(said.contains("server     ") && said.contains(&server.url().unwrap()), "{said}");

    let mut named = Command::new(EXE);
    named.args(["get", "namespaces", "-o", "name"]).env_clear().env("KUBECONFIG", server.kubeconfig());
    assert!(finish(named, "").ok().contains("namespace/default\n"));

    // Something that speaks HTTP, and is not ours.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // An answer before the question would be no HTTP.
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let body = "{\"gitVersion\":\"v1.35.0\"}";
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            drop(stream.write_all((head + body).as_bytes()));
        }
    });
    let mut command = server.command(&["get", "pods", "--server", &format!("http://{address}")]);
    command.env_remove("MAINSTAY_KUBECONFIG");
    assert!(finish(command, "").failed(4).contains("is not a Mainstay server"));
    // Its own certificate is not signed by anyone whom the system trusts.
    let url = server.url().unwrap();
    assert!(run(&server, &format!("get pods --server {url}")).failed(5).contains("certificate"));
}

/// A server that listens everywhere names an address that can be reached, and answers to the names that it was given, as
/// long as it is given them.
#[test]
fn a_server_that_listens_everywhere_is_reached_and_known_by_its_names() {
    let mut server = Server::idle(EXE).unwrap();
    server.listen_everywhere();
    server.set_arguments(&["--tls-name", "box.example", "--tls-name", "10.9.8.7"]);
    server.restart().unwrap();
    let url = server.url().unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert!(run(&server, "get namespaces -o name").ok().contains("namespace/default\n"));
    let mut local = Command::new(EXE);
    local.args(["get", "namespaces", "-o", "name"]).env_clear().env("MAINSTAY_DATA_DIR", server.data_dir());
    assert!(finish(local, "").ok().contains("namespace/default\n"));
    let named = |server: &Server, name: &str| {
        let text = std::fs::read_to_string(server.kubeconfig()).unwrap();
        let file = server.scratch().join("named.kubeconfig");
        std::fs::write(&file, text.replace("    server:", &format!("    tls-server-name: {name}\n    server:")))
            .unwrap();
        run(server, &format!("get namespaces -o name --kubeconfig {}", file.display()))
    };
    for name in ["localhost", "box.example", "10.9.8.7"] {
        assert!(named(&server, name).ok().contains("namespace/default\n"), "{name}");
    }
    assert!(named(&server, "other.example").failed(5).contains("certificate"));
    server.stop().unwrap();
    server.set_arguments(&["--tls-name", "other.example"]);
    server.restart().unwrap();
    named(&server, "other.example").ok();
    assert!(named(&server, "box.example").failed(5).contains("certificate"));
    let wrong = finish(server.command(&["serve", "--tls-name", "box.example:7443"]), "").failed(2);
    assert!(wrong.contains("must be a DNS name"), "{wrong}");
}

#[test]
fn status_and_completion_answer() {
    let server = server();
    let status = run(&server, "status").ok();
    assert!(status.contains("Ready     yes") && status.contains("CHECK"), "{status}");
    assert_eq!(json(&run(&server, "status -o json").ok())["ready"], true);
    apply(&server, &config("some-name", "{}")).ok();
    let complete = |words: &[&str]| {
        let mut command = server.command(&[&["--", "mainstay"], words].concat());
        command.env("COMPLETE", "fish");
        finish(command, "").ok()
    };
    assert!(complete(&["get", "sess"]).contains("sessions"));
    assert!(complete(&["get", "configmaps", "so"]).contains("some-name"));
    assert!(complete(&["describe", "cm/so"]).contains("cm/some-name"));
    assert!(!complete(&["get", "configmaps", "-n", "elsewhere", "so"]).contains("some-name"));
    // The server that the line names, and no other.
    let mut named = server.command(&["--", "mainstay", "get", "configmaps"]);
    named.arg(format!("--kubeconfig={}", server.kubeconfig().display())).arg("so");
    named.env("COMPLETE", "fish").env("MAINSTAY_KUBECONFIG", "/nonexistent");
    assert!(finish(named, "").ok().contains("some-name"));
    apply(&server, &session("asleep", "sleep 1000")).ok();
    for verb in ["stop", "send", "messages", "logs", "resume"] {
        assert!(complete(&[verb, "as"]).contains("asleep"), "{verb}");
    }
    run(&server, "delete session asleep --timeout 60s").ok();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(run(&server, &format!("completion {shell}")).ok().contains("mainstay"), "{shell}");
    }
}
