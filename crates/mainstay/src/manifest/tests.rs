use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;

fn parse(text: &str) -> Vec<Document> {
    yaml::parse("t.yaml", text).unwrap()
}

fn fault(text: &str) -> String {
    yaml::parse("t.yaml", text).unwrap_err().to_string()
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn config(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: {value}\n")
}

fn read_files(files: &[&Path]) -> Result<Vec<Document>, ManifestError> {
    let files = files.iter().map(|path| (*path).to_owned()).collect();
    read_all(&Source { files, ..Source::default() })
}

fn build(folder: &Path) -> Result<Vec<Document>, ManifestError> {
    read_all(&Source { kustomization: Some(folder.to_owned()), ..Source::default() })
}

#[test]
fn documents_anchors_and_merges_are_read() {
    let text = "# first\na: &x {k: 1, l: [1, two, 'yes', yes]}\nb: *x\nc:\n  <<: *x\n  k: 2\n---\n---\n\"d\": |\n  text\n...\n";
    let documents = parse(text);
    assert_eq!(documents.len(), 2);
    let x = json!({"k": 1, "l": [1, "two", "yes", true]});
    assert_eq!(documents[0].value, json!({"a": x, "b": x, "c": {"k": 2, "l": x["l"]}}));
    assert_eq!(documents[1].value, json!({"d": "text\n"}));
}

#[test]
fn fields_know_their_lines() {
    let document = &parse("kind: X\nspec:\n  env:\n  - name: A\n    value: b\n  - name: B\n")[0];
    assert_eq!(document.place("spec.env[1].name"), "t.yaml:6");
    assert_eq!(document.place("spec.env[0].value.deeper"), "t.yaml:5");
    assert_eq!(document.place("spec.nothing"), "t.yaml:2");
    assert_eq!(document.place("nothing"), "t.yaml:1");
}

#[test]
fn bad_yaml_is_told_with_its_line() {
    assert!(fault("a: 1\nb: [1\n").starts_with("t.yaml:"), "{}", fault("a: 1\nb: [1\n"));
    assert_eq!(fault("a: 1\nb: 2\na: 3\n"), "t.yaml:3: the key \"a\" is given twice");
    assert!(fault("? [a]\n: b\n").contains("a key must be a text"));
    assert_eq!(fault("a: !!int x\n"), "t.yaml:1: the value does not fit its tag !!int");
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(fault(&deep), "t.yaml:1: nested deeper than 64 levels");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(fault(bomb).contains("more than 1000000 values"));
}

#[test]
fn files_folders_lists_and_json_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "m/b.yaml", &config("b", "1"));
    write(root, "m/a.json", "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\n\t\"metadata\":{\"name\":\"a\"}}");
    write(root, "m/notes.txt", "not a manifest");
    write(root, "m/deep/c.yml", &config("c", "1"));
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: l\n";
    write(root, "l.yaml", list);
    let names = |documents: Vec<Document>| documents.iter().map(|one| one.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(read_files(&[&root.join("l.yaml"), &root.join("m")]).unwrap()), ["l", "a", "b"]);
    let deep = Source { files: vec![root.join("m")], recursive: true, ..Source::default() };
    assert_eq!(names(read_all(&deep).unwrap()), ["a", "b", "c"]);
    let item = read_files(&[&root.join("l.yaml")]).unwrap().remove(0);
    assert!(item.place("metadata.name").ends_with("l.yaml:7"), "{}", item.place("metadata.name"));
}

#[test]
fn what_is_no_manifest_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let fault = |text: &str| {
        write(root, "x.yaml", text);
        read_files(&[&root.join("x.yaml")]).unwrap_err().to_string().replace(root.to_str().unwrap(), "")
    };
    assert_eq!(fault("apiVersion: v1\nkind: X\nmetadata:\n  labels: {}\n"), "/x.yaml:3: metadata.name is missing");
    assert_eq!(fault("kind: X\n"), "/x.yaml:1: apiVersion is missing");
    assert_eq!(
        fault("apiVersion: v1\nkind: X\nmetadata: {name: 5}\n"),
        "/x.yaml:3: metadata.name must be a text that is not empty"
    );
    assert!(fault("- a\n").contains("must be a mapping"));
    assert!(fault("# nothing\n").contains("no manifest in it"));
    assert!(read_files(&[&root.join("none.yaml")]).unwrap_err().to_string().contains("No such file"));
    assert!(
        read_files(&[Path::new("https://example.com/x.yaml")])
            .unwrap_err()
            .to_string()
            .contains("not fetched from URLs")
    );
}

#[test]
fn a_kustomization_gathers_and_patches() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "base/kustomization.yaml", "resources:\n- a.yaml\n- b.yaml\n");
    write(root, "base/a.yaml", &config("a", "1"));
    write(root, "base/b.yaml", &config("b", "1"));
    write(root, "prod/c.yaml", &config("c", "1"));
    write(
        root,
        "prod/patch.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {key: null, more: two}\n",
    );
    write(
        root,
        "prod/kustomization.yml",
        "\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
bases: [../base]
resources: [c.yaml]
patches:
- path: patch.yaml
- target: {kind: ConfigMap, name: b}
  patch: |
    - op: replace
      path: /data/key
      value: patched
- target: {kind: ConfigMap}
  patch: |
    metadata:
      name: not-a-rename
      labels: {env: prod}
",
    );
    let documents = build(&root.join("prod")).unwrap();
    let of = |name: &str| documents.iter().find(|one| one.name() == name).unwrap().value.clone();
    assert_eq!(documents.len(), 3);
    assert_eq!(of("a")["data"], json!({"more": "two"}));
    assert_eq!(of("b")["data"], json!({"key": "patched"}));
    assert!(["a", "b", "c"].iter().all(|name| of(name)["metadata"]["labels"]["env"] == "prod"));
    assert!(read_files(&[&root.join("prod")]).unwrap_err().to_string().contains("use -k"));
}

#[test]
fn what_a_kustomization_cannot_do_here_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "a.yaml", &config("a", "1"));
    let fault = |text: &str| {
        write(root, "kustomization.yaml", text);
        build(root).unwrap_err().to_string()
    };
    for (text, part) in [
        ("namePrefix: x\n", "kustomization.yaml:1: the field namePrefix is not supported"),
        ("resources: [a.yaml]\nconfigMapGenerator: []\n", ":2: the field configMapGenerator is not supported"),
        ("resources: [https://x/y]\n", "only files and folders"),
        ("resources: [none.yaml]\n", "there is no file or folder"),
        ("resources: [a.yaml, a.yaml]\n", "ConfigMap a is there already"),
        ("resources: [.]\n", "refers back to itself"),
        ("resources: [a.yaml]\npatches:\n- path: a.yaml\n  options: {}\n", "the field options is not supported"),
        (
            "resources: [a.yaml]\npatches:\n- target: {labelSelector: x}\n  patch: '{}'\n",
            "target.labelSelector is not supported",
        ),
        ("resources: [a.yaml]\npatches:\n- target: {name: other}\n  patch: 'a: b'\n", "matches no object"),
        ("resources: [a.yaml]\npatches:\n- target: {name: a}\n  patch: '$patch: delete'\n", "$patch: directives"),
        (
            "resources: [a.yaml]\npatches:\n- target: {name: a}\n  patch: '[{op: remove, path: /none}]'\n",
            "does not fit ConfigMap a",
        ),
        ("kind: Component\n", "kind is not what a kustomization has there"),
    ] {
        let said = fault(text);
        assert!(said.contains(part), "{text:?}: {said}");
    }
}
