//! What is not there yet, and what is wrong: each in words, none as a wrong success.

use super::*;

#[test]
fn what_is_not_there_yet_is_refused_in_words() {
    let kubectl = Kubectl::with_projects();
    kubectl.input("create -f -", &config("c", "1")).ok();
    let strategic = "strategic merge patch is not supported by this server yet: use ";
    kubectl.run("patch cm c -p {\"data\":{\"a\":\"2\"}}").failed(1, strategic);
    kubectl.run("patch project web -p {\"spec\":{}}").failed(1, strategic);
    // A core kind that is there already is applied by a strategic merge patch.
    kubectl.input("apply -f -", &config("c", "2")).failed(1, strategic);
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data.a}").ok(), "1");
    kubectl
        .input("apply --server-side -f -", super::PROJECTS)
        .failed(1, "server-side apply is not supported by this server yet");
    kubectl.run("exec x -- ls").failed(1, "pods \"x\" not found");
    kubectl.run("top pods").failed(1, "Metrics API not available");
    kubectl.run("get endpoints").failed(1, "the server doesn't have a resource type \"endpoints\"");
    kubectl.run("scale session x --replicas=2").failed(1, "not found");
    kubectl.run("get projects --as=ann").failed(1, "impersonation is not offered");
    kubectl.run("get projects --token=nonsense").failed(1, "");
}

#[test]
fn wrong_manifests_are_refused_by_field() {
    let kubectl = Kubectl::with_projects();
    let manifest = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: mainstay.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    let table = [
        ("Session", "s", "{command: [x], bogus: 1}", "strict decoding error: unknown field \"spec.bogus\""),
        ("Session", "s", "{command: x}", "spec.command"),
        ("Session", "s", "{}", "spec.agent: Required value: name an agent or a command"),
        ("Session", "S", "{command: [x]}", "metadata.name: Invalid value: \"S\""),
        ("Session", "s", "{command: [x], timeout: soon}", "spec.timeout: Invalid value"),
        ("Session", "s", "{command: [x], desiredState: Paused}", "spec.desiredState: Unsupported value: \"Paused\""),
        ("Project", "web.x", "{}", "it is also the name of a namespace"),
        ("Project", "p", "{members: [{name: a, role: king}]}", "spec.members[0].role: Unsupported value: \"king\""),
        ("Agent", "a", "{args: [x]}", "spec.args: Forbidden: arguments need a spec.command"),
        ("Credential", "c", "{}", "spec.provider: Required value"),
    ];
    for (kind, name, spec, words) in table {
        for verb in ["create -f -", "apply -f -", "create --dry-run=server -f -"] {
            kubectl.input(verb, &manifest(kind, name, spec)).failed(1, words);
        }
    }
    let unknown = "kind: Nothing\napiVersion: mainstay.dev/v1alpha1\nmetadata: {name: a}\n";
    kubectl.input("create --validate=false -f -", unknown).failed(1, "no matches for kind \"Nothing\"");
    kubectl.run("get sessions -l a=(").failed(1, "unable to parse requirement");
    kubectl.run("get sessions --field-selector spec.x=1").failed(1, "field label not supported: spec.x");
    kubectl.run("get sessions none").failed(1, "sessions.mainstay.dev \"none\" not found");
    assert_eq!(kubectl.run("get mainstay -A -o name").ok(), "project.mainstay.dev/shop\nproject.mainstay.dev/web\n");
}
