//! Create, get, list, update, delete, and what the server adds.

use serde_json::{Value, json};

use crate::harness::{Harness, configmap, configmaps, sessions};

#[tokio::test]
async fn an_object_is_created_read_listed_updated_and_deleted() {
    let api = Harness::new().await;
    let made = api.post(&configmaps(""), &configmap("a")).await.expect(201);
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert!(metadata["uid"].as_str().unwrap().len() == 36 && metadata["creationTimestamp"].is_string());
    let revision = metadata["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&configmaps("/a")).await.expect(200), made);

    let list = api.get(&configmaps("")).await.expect(200);
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("ConfigMapList"), &made));
    assert!(list["metadata"]["resourceVersion"].is_string());

    let mut new = made.clone();
    new["data"]["k"] = json!("w");
    let updated = api.put(&configmaps("/a"), &new).await.expect(200);
    assert_ne!(updated["metadata"]["resourceVersion"].as_str().unwrap(), revision);
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    // The same once more changes nothing, and a stale revision is refused.
    assert_eq!(api.put(&configmaps("/a"), &updated).await.expect(200), updated);
    api.put(&configmaps("/a"), &new).await.refused(409, "the object has been modified; please apply your changes");

    let gone = api.delete(&configmaps("/a")).await.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &made["metadata"]["uid"]));
    api.get(&configmaps("/a")).await.refused(404, "configmaps \"a\" not found");
    api.delete(&configmaps("/a")).await.refused(404, "configmaps \"a\" not found");
}

#[tokio::test]
async fn names_are_taken_generated_and_checked() {
    let api = Harness::new().await;
    api.post(&configmaps(""), &configmap("a")).await.expect(201);
    api.post(&configmaps(""), &configmap("a")).await.refused(409, "configmaps \"a\" already exists");
    let generated = api.post(&configmaps(""), &json!({"metadata": {"generateName": "gen-"}})).await.expect(201);
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    api.post(&configmaps(""), &json!({"metadata": {}})).await.refused(422, "name or generateName is required");
    api.post(&configmaps(""), &configmap("A_b")).await.refused(422, "metadata.name: Invalid value: \"A_b\"");
    let elsewhere = json!({"metadata": {"name": "x", "namespace": "other"}});
    api.post(&configmaps(""), &elsewhere).await.refused(400, "does not match the namespace sent on the request");
    let pod = json!({"kind": "Pod", "metadata": {"name": "x"}});
    api.post(&configmaps(""), &pod).await.refused(400, "does not match the expected kind");
}

#[tokio::test]
async fn a_namespace_must_be_there_and_stay() {
    let api = Harness::new().await;
    let path = "/api/v1/namespaces/other/configmaps";
    api.post(path, &configmap("a")).await.refused(404, "namespaces \"other\" not found");
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await.expect(201);
    api.post(path, &configmap("a")).await.expect(201);
    let going = api.delete("/api/v1/namespaces/other").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    api.post(path, &configmap("b")).await.refused(403, "because it is being terminated");
    // Only /finalize releases it, and then it is gone.
    let release = json!({"spec": {"finalizers": []}});
    api.merge("/api/v1/namespaces/other", &release).await.refused(422, "spec.finalizers: Forbidden");
    let held = api.get("/api/v1/namespaces/other").await.expect(200);
    assert_eq!(held["spec"]["finalizers"], json!(["kubernetes"]));
    let body =
        json!({"metadata": {"resourceVersion": held["metadata"]["resourceVersion"]}, "spec": {"finalizers": []}});
    api.merge("/api/v1/namespaces/other/finalize", &body).await.expect(200);
    api.get("/api/v1/namespaces/other").await.refused(404, "not found");
}

#[tokio::test]
async fn finalizers_of_a_namespace_are_the_servers() {
    let api = Harness::new().await;
    let with = |finalizers: serde_json::Value| json!({"metadata": {"name": "n"}, "spec": {"finalizers": finalizers}});
    let path = "/api/v1/namespaces";
    api.post(path, &with(json!(["kubernetes", "example.org/mine"]))).await.refused(422, "spec.finalizers: Forbidden");
    // As it was exported, or with nothing said, it is what it is anyway.
    let made = api.post(path, &with(json!(["kubernetes"]))).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let unsaid = json!({"metadata": {"name": "n", "resourceVersion": made["metadata"]["resourceVersion"]}});
    let kept = api.put("/api/v1/namespaces/n", &unsaid).await.expect(200);
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
}

/// Creates race the deletion of their namespace: what was stored was stored before the deletion began.
/// R4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_into_a_namespace_whose_deletion_has_begun() {
    let api = Harness::new().await;
    let revision =
        |object: &serde_json::Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let mut refused = 0;
    for round in 0..20 {
        let name = format!("n{round}");
        let made = api.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.expect(201);
        let (path, namespace) = (format!("/api/v1/namespaces/{name}/configmaps"), format!("/api/v1/namespaces/{name}"));
        let creates = (0..24).map(|one| {
            let (api, path) = (&api, &path);
            async move { api.post(path, &configmap(&format!("c{one}"))).await }
        });
        let (answers, going) = futures::future::join(futures::future::join_all(creates), api.delete(&namespace)).await;
        let began = revision(&going.expect(200));
        for answer in answers {
            if answer.status != 201 {
                refused += 1;
                answer.refused(403, "because it is being terminated");
            }
        }
        // Not only what is there now: nothing was stored, and taken back, either.
        let scope = mainstay_store::Scope::resource("/configmaps").within(name);
        let mut watch = api.store.watch(scope, mainstay_store::Revision(revision(&made))).await.unwrap();
        let mut seen = 0;
        while let Some(changes) = futures::FutureExt::now_or_never(watch.next()) {
            seen = changes.unwrap().last().unwrap().revision().0;
        }
        assert!(seen < began, "round {round}: stored at {seen}, the deletion began at {began}");
    }
    assert!(refused > 0, "no create came after the deletion: nothing was shown");
}

#[tokio::test]
async fn status_and_spec_are_kept_apart() {
    let api = Harness::new().await;
    let mut session = api.session("s").await;
    assert_eq!(session["status"]["phase"], "Pending");
    assert_eq!(session["metadata"]["generation"], 1);

    session["status"]["phase"] = json!("Creating");
    session["spec"]["prompt"] = json!("changed");
    let by_status = api.put(&sessions("/s/status"), &session).await.expect(200);
    assert_eq!((&by_status["status"]["phase"], &by_status["spec"]["prompt"]), (&json!("Creating"), &json!("do it")));
    assert_eq!(by_status["metadata"]["generation"], 1);

    let mut by_spec = by_status.clone();
    by_spec["status"]["phase"] = json!("Failed");
    by_spec["spec"]["prompt"] = json!("changed");
    let by_spec = api.put(&sessions("/s"), &by_spec).await.expect(200);
    assert_eq!((&by_spec["status"]["phase"], &by_spec["spec"]["prompt"]), (&json!("Creating"), &json!("changed")));
    assert_eq!(by_spec["metadata"]["generation"], 2);

    api.merge(&sessions("/s/status"), &json!({"status": {"phase": "Pending"}})).await.refused(422, "may not become");
    let blind = json!({"metadata": {"name": "s"}, "spec": {"command": ["true"]}});
    api.put(&sessions("/s"), &blind).await.refused(422, "metadata.resourceVersion: Invalid value: 0x0");
}

#[tokio::test]
async fn a_session_takes_its_projects_default_agent_or_is_refused() {
    let api = Harness::new().await;
    let session = json!({"metadata": {"name": "s"}, "spec": {"prompt": "x"}});
    api.post(&sessions(""), &session).await.refused(422, "spec.agent: Required value");
    let project = json!({"metadata": {"name": "team"}, "spec": {"defaultAgent": "helper"}});
    api.post(PROJECTS, &project).await.expect(201);
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    let made = api.post(&sessions("").replace("default", "team"), &session).await.expect(201);
    assert_eq!(made["spec"]["agent"], "helper");
}

const PROJECTS: &str = "/apis/mainstay.dev/v1alpha1/projects";

#[tokio::test]
async fn a_project_takes_no_namespace_that_is_not_its_own() {
    let api = Harness::new().await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "taken"}})).await.expect(201);
    let project = |name: &str| json!({"metadata": {"name": name}, "spec": {}});
    for name in ["default", "mainstay-system", "kube-system"] {
        api.post(PROJECTS, &project(name)).await.refused(409, "is the platform's; choose another name");
    }
    api.post(PROJECTS, &project("taken")).await.refused(409, "namespace \"taken\" exists and is not this project's");
    api.post(PROJECTS, &project("free")).await.expect(201);
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "free"}})).await.expect(201);
    api.post(PROJECTS, &project("free")).await.refused(409, "already exists");
}

#[tokio::test]
async fn what_kubectl_remembers_holds_no_secret() {
    const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let api = Harness::new().await;
    let remembered = |kind: &str| match kind {
        "Secret" => json!({"kind": kind, "stringData": {"k": "hunter2"}}).to_string(),
        _ => json!({"kind": kind, "spec": {"provider": "x", "token": "hunter2"}}).to_string(),
    };
    let path = "/apis/mainstay.dev/v1alpha1/namespaces/default/credentials";
    let metadata = |kind: &str| json!({"name": "c", "annotations": {APPLIED: remembered(kind)}});
    let credential = json!({"metadata": metadata("Credential"), "spec": {"provider": "x", "token": "hunter2"}});
    let made = api.post(path, &credential).await.expect(201);
    let kept: Value = serde_json::from_str(made["metadata"]["annotations"][APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(kept["spec"], json!({"provider": "x"}));
    let broken = json!({"metadata": {"annotations": {APPLIED: "spec: {token: hunter2}"}}});
    let patched = api.merge(&format!("{path}/c"), &broken).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"][APPLIED], "{}");
    // Of a Secret it is kept as it is, but sealed like its values.
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": metadata("Secret"), "stringData": {"k": "hunter2"}});
    let made = api.post(path, &secret).await.expect(201);
    assert_eq!(made["metadata"]["annotations"][APPLIED], remembered("Secret"));
    for file in std::fs::read_dir(api.dir()).unwrap().flatten().filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(7).any(|found| found == b"hunter2"), "{}", file.path().display());
    }
}

#[tokio::test]
async fn a_credentials_token_is_sealed_and_never_returned() {
    let api = Harness::new().await;
    let path = "/apis/mainstay.dev/v1alpha1/namespaces/default/credentials";
    let credential = json!({"metadata": {"name": "c"}, "spec": {"provider": "github", "token": "hunter2-hunter2"}});
    let made = api.post(path, &credential).await.expect(201);
    assert_eq!((&made["spec"]["token"], &made["status"]["tokenSet"]), (&json!(null), &json!(true)));
    let one = format!("{path}/c");
    let same = api.merge(&one, &json!({"spec": {"token": "hunter2-hunter2"}})).await.expect(200);
    assert_eq!(same, made, "the same token is no change");
    let described = api.merge(&one, &json!({"spec": {"description": "x"}})).await.expect(200);
    assert_eq!(described["status"]["tokenSet"], true);
    for bytes in [api.get(&one).await.bytes, api.get(path).await.bytes, described.to_string().into()] {
        assert!(!String::from_utf8_lossy(&bytes).contains("token\":\""), "{bytes:?}");
    }
}

#[tokio::test]
async fn secrets_are_read_back_as_written() {
    let api = Harness::new().await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": "aGVsbG8="}, "stringData": {"b": "world"}});
    let made = api.post(path, &secret).await.expect(201);
    assert_eq!(made["data"], json!({"a": "aGVsbG8=", "b": "d29ybGQ="}));
    assert_eq!(made["type"], "Opaque");
    assert_eq!(api.get(path).await.expect(200)["items"][0]["data"], made["data"]);
    let again = api.merge(&format!("{path}/s"), &json!({"data": {"a": "aGVsbG8="}})).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_said_so() {
    let api = Harness::new().await;
    for path in ["/nothing", "/api/v1/nothing", "/apis/x.y/v1/z", "/api/v1/namespaces/default/pods/p/nothing"] {
        api.get(path).await.refused(404, "the server could not find the requested resource");
    }
    api.call("PUT", &configmaps(""), "", "{}").await.refused(405, "does not allow this method");
    api.call("POST", &configmaps("/a"), "", "{}").await.refused(405, "does not allow this method");
    assert_eq!(api.get("/livez").await.bytes, "ok");
    assert!(String::from_utf8_lossy(&api.get("/readyz?verbose").await.bytes).contains("[+]store ok"));
    assert_eq!(api.get("/version").await.expect(200)["mainstay"], "0.1.0");
    assert!(String::from_utf8_lossy(&api.get("/metrics").await.bytes).contains("mainstay_requests_total"));
}
